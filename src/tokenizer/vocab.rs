//! What a GGUF file says of its tokens, checked.

use std::collections::HashMap;

use tokenizers::utils::byte_level::char_to_byte;

use super::{Error, Result};
use crate::gguf::Metadata;

/// Longest token, in bytes. The longest of a published vocabulary is a run of 256 spaces, 512 bytes as gpt2 spells it.
const MAX_TOKEN_BYTES: usize = 4096;

/// What a token is for, as `tokenizer.ggml.token_type` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenType {
    /// Text.
    Normal,
    /// Stands for text that the vocabulary cannot spell.
    Unknown,
    /// Structure, never text: begins a turn, ends an answer.
    Control,
    /// Text that is always one token, wherever it stands: `<think>`, `<tool_call>`.
    UserDefined,
    /// Reserved.
    Unused,
    /// One byte, for text outside of the vocabulary.
    Byte,
}

impl TokenType {
    fn from_ggml(index: usize, found: i32) -> Result<Self> {
        Ok(match found {
            // 0: undefined.
            0 | 1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => return Err(Error::UnknownTokenType { index, found }),
        })
    }

    /// Whether the token stands for itself only, and its text is never that of an answer.
    pub fn is_control(self) -> bool {
        matches!(self, Self::Control | Self::Unknown)
    }
}

/// How a vocabulary spells the bytes of its tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spelling {
    /// Each byte is one printable character (GPT-2's `bytes_to_unicode`).
    ByteLevel,
    /// UTF-8 with `▁` for a space, and `<0x0A>` for a byte that no token holds.
    SentencePiece,
}

/// Tokens by id: their type, and the bytes that they stand for.
pub(super) struct Vocabulary {
    types: Vec<TokenType>,
    /// All pieces, end to end.
    bytes: Vec<u8>,
    /// Where each piece ends in `bytes`.
    ends: Vec<usize>,
}

/// The texts of the tokens as the file spells them, borrowed while the encoder is built.
pub(super) struct Texts<'a> {
    /// `None`: not UTF-8. No text encodes to such a token, but a model may still emit it.
    pub by_id: Vec<Option<&'a str>>,
    /// The last of equals, as in llama.cpp.
    pub ids: HashMap<&'a str, u32>,
}

impl Vocabulary {
    pub fn from_metadata(metadata: &Metadata, spelling: Spelling) -> Result<(Vocabulary, Texts<'_>)> {
        const TOKENS: &str = "tokenizer.ggml.tokens";
        const TYPES: &str = "tokenizer.ggml.token_type";
        let tokens = metadata.strings(TOKENS)?.filter(|tokens| !tokens.is_empty()).ok_or(Error::Missing(TOKENS))?;
        let types = match metadata.i32s(TYPES)? {
            Some(types) if types.len() != tokens.len() => {
                return Err(Error::Length { key: TYPES, found: types.len(), expected: tokens.len() });
            }
            Some(types) => {
                types.into_iter().enumerate().map(|(i, t)| TokenType::from_ggml(i, t)).collect::<Result<Vec<_>>>()?
            }
            None => vec![TokenType::Normal; tokens.len()],
        };

        let mut vocabulary = Vocabulary { types, bytes: Vec::new(), ends: Vec::with_capacity(tokens.len()) };
        let mut texts = Texts { by_id: Vec::with_capacity(tokens.len()), ids: HashMap::with_capacity(tokens.len()) };
        for (index, token) in tokens.into_iter().enumerate() {
            if token.len() > MAX_TOKEN_BYTES {
                return Err(Error::TokenTooLong { index, bytes: token.len(), limit: MAX_TOKEN_BYTES });
            }
            let text = std::str::from_utf8(token).ok();
            match text {
                Some(text) => {
                    piece(text, vocabulary.types[index], spelling, &mut vocabulary.bytes);
                    texts.ids.insert(text, index as u32);
                }
                None => vocabulary.bytes.extend_from_slice(token),
            }
            vocabulary.ends.push(vocabulary.bytes.len());
            texts.by_id.push(text);
        }
        Ok((vocabulary, texts))
    }

    pub fn len(&self) -> usize {
        self.types.len()
    }

    pub fn token_type(&self, id: u32) -> Option<TokenType> {
        self.types.get(id as usize).copied()
    }

    /// Whether a token is more than text: control or user-defined.
    pub fn is_special(&self, id: u32) -> bool {
        matches!(self.token_type(id), Some(TokenType::Control | TokenType::UserDefined))
    }

    pub fn set_control(&mut self, id: u32) {
        self.types[id as usize] = TokenType::Control;
    }

    /// The bytes that a token stands for; none for an id outside of the vocabulary.
    pub fn piece(&self, id: u32) -> &[u8] {
        let id = id as usize;
        let Some(&end) = self.ends.get(id) else { return &[] };
        let start = if id == 0 { 0 } else { self.ends[id - 1] };
        &self.bytes[start..end]
    }

    /// Reads a token id from metadata.
    pub fn id(&self, metadata: &Metadata, key: &'static str) -> Result<Option<u32>> {
        match metadata.u32(key)? {
            Some(id) if id as usize >= self.len() => Err(Error::IdOutOfRange { key, id, size: self.len() }),
            id => Ok(id),
        }
    }
}

/// Appends the bytes that a token stands for.
fn piece(text: &str, kind: TokenType, spelling: Spelling, out: &mut Vec<u8>) {
    match (kind, spelling) {
        (TokenType::Normal | TokenType::Unused, Spelling::ByteLevel) => {
            for c in text.chars() {
                match char_to_byte(c) {
                    Some(byte) => out.push(byte),
                    None => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
                }
            }
        }
        (TokenType::Normal | TokenType::Unused, Spelling::SentencePiece) => {
            out.extend_from_slice(text.replace('▁', " ").as_bytes());
        }
        (TokenType::Byte, _) => match byte(text) {
            Some(byte) => out.push(byte),
            None => out.extend_from_slice(text.as_bytes()),
        },
        (TokenType::Control | TokenType::Unknown | TokenType::UserDefined, _) => out.extend_from_slice(text.as_bytes()),
    }
}

/// The byte that `<0x0A>` stands for.
fn byte(text: &str) -> Option<u8> {
    u8::from_str_radix(text.strip_prefix("<0x")?.strip_suffix('>')?, 16).ok()
}
