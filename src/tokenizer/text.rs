//! Text to ids and back.

use std::sync::Arc;

use tokenizers::pipeline::{EncodeOptions, PipelineToken, PipelineTokenizer, Segment, SpecialSegmentIterator};

use super::vocab::{Spelling, TokenType, Vocabulary};
use super::{Error, PreTokenizer, Result, build};
use crate::gguf::Metadata;

/// What control tokens mean that are spelled out in a text to encode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// They are text like any other: `<|im_end|>` becomes the tokens of its letters. For all that a user wrote.
    Text,
    /// They are the tokens that they name. For prompts in a model's own format.
    Token,
}

/// What becomes of control tokens among the ids to decode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// They leave no text.
    Skip,
    /// They are spelled out: `<|im_end|>`.
    Show,
}

/// A model's vocabulary, between text and token ids. Cheap to clone.
#[derive(Clone)]
pub struct Tokenizer {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub vocabulary: Vocabulary,
    pub encoder: PipelineTokenizer,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub add_bos: bool,
    /// The text begins with a space that is not part of it (SentencePiece).
    pub space_prefix: bool,
    pub end_tokens: Vec<u32>,
    /// The spellings of the control tokens.
    pub control: Vec<String>,
}

/// The texts that end an answer in the families whose files do not say so, as in llama.cpp's list.
#[rustfmt::skip]
const END_TEXTS: &[&str] = &[
    "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<|return|>", "<|call|>", "<|calls|>", "<|flush|>",
    "<end_of_turn>", "<turn|>", "<|tool_response>", "<|endoftext|>", "<|end_of_text|>", "<end_of_utterance>",
    "</s>", "<eos>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<｜end▁of▁sentence｜>",
];

impl Tokenizer {
    /// Reads `tokenizer.ggml.*`.
    ///
    /// Errors name the key, and where it is an array the index, that is missing, of the wrong length, out of range or
    /// unknown to halogen. Tokens of more than 4096 bytes are refused.
    pub fn from_metadata(metadata: &Metadata) -> Result<Tokenizer> {
        const MODEL: &str = "tokenizer.ggml.model";
        const PRE: &str = "tokenizer.ggml.pre";
        let model = metadata.str(MODEL)?.ok_or(Error::Missing(MODEL))?;
        let spelling = match model {
            "gpt2" => Spelling::ByteLevel,
            "llama" | "gemma4" => Spelling::SentencePiece,
            _ => return Err(Error::UnknownModel(model.to_owned())),
        };
        let (mut vocabulary, texts) = Vocabulary::from_metadata(metadata, spelling)?;
        let ending = |text: &&str| texts.ids.get(*text).copied().filter(|id| vocabulary.is_special(*id));
        let by_text: Vec<u32> = END_TEXTS.iter().filter_map(ending).collect();
        // Some files mark them as user-defined, which would let any text end a turn.
        by_text.iter().for_each(|id| vocabulary.set_control(*id));
        let space_prefix = metadata.bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(model == "llama");
        let space_prefix = space_prefix && spelling == Spelling::SentencePiece;

        let (encoder, add_bos) = match model {
            "gpt2" => {
                let pre = PreTokenizer::named(metadata.str(PRE)?.ok_or(Error::Missing(PRE))?)?;
                (build::byte_level(metadata, &vocabulary, &texts, pre)?, pre.add_bos)
            }
            "llama" => (build::sentence_piece(metadata, &vocabulary, &texts, space_prefix)?, true),
            _ => (build::gemma4(metadata, &vocabulary, &texts, space_prefix)?, true),
        };

        // SentencePiece's own, where a file names none.
        let default = |id: u32| (model == "llama" && vocabulary.is_special(id)).then_some(id);
        let id = |key| vocabulary.id(metadata, key);
        let bos = id("tokenizer.ggml.bos_token_id")?.or(default(1));
        let eos = id("tokenizer.ggml.eos_token_id")?.or(default(2));
        let mut end_tokens = by_text;
        end_tokens.extend(eos);
        end_tokens.extend(id("tokenizer.ggml.eot_token_id")?);
        end_tokens.extend(id("tokenizer.ggml.eom_token_id")?);
        // gpt-oss ends each message of an answer with <|end|>, and the answer with one of the others.
        let is_end = |text| texts.ids.get(text).filter(|id| end_tokens.contains(id)).copied();
        if let (Some(end), Some(_), Some(_)) = (is_end("<|end|>"), is_end("<|return|>"), is_end("<|call|>")) {
            end_tokens.retain(|id| *id != end || Some(end) == eos);
        }
        end_tokens.sort_unstable();
        end_tokens.dedup();

        let add_bos = metadata.bool("tokenizer.ggml.add_bos_token")?.unwrap_or(add_bos);
        let is_control = |(_, id): &(&&str, &u32)| vocabulary.token_type(**id).is_some_and(TokenType::is_control);
        let control = texts.ids.iter().filter(is_control).map(|(text, _)| (*text).to_owned()).collect();
        let inner = Inner { vocabulary, encoder, bos, eos, add_bos, space_prefix, end_tokens, control };
        Ok(Tokenizer { inner: Arc::new(inner) })
    }

    /// The ids of a text. Adds no BOS.
    ///
    /// User-defined tokens (`<think>` in Qwen3) are matched in any text; [`Special`] says whether control tokens are.
    pub fn encode(&self, text: &str, special: Special) -> Vec<u32> {
        let mut ids = Vec::with_capacity(text.len() / 4);
        self.encode_into(text, special, &mut ids);
        ids
    }

    /// The ids of a whole prompt: begins with BOS, once, if the model wants one.
    pub fn encode_prompt(&self, text: &str, special: Special) -> Vec<u32> {
        self.with_bos(self.encode(text, special))
    }

    pub(super) fn with_bos(&self, mut ids: Vec<u32>) -> Vec<u32> {
        match self.inner.bos {
            Some(bos) if self.inner.add_bos && ids.first() != Some(&bos) => ids.insert(0, bos),
            _ => {}
        }
        ids
    }

    pub(super) fn encode_into(&self, text: &str, special: Special, ids: &mut Vec<u32>) {
        // The library counts words' ends in u32, after `▁` has made three bytes of each space.
        const PART: usize = 1 << 30;
        let options = EncodeOptions { encode_special_tokens: special == Special::Text, ..EncodeOptions::no_specials() };
        let mut tokens: Vec<PipelineToken> = Vec::with_capacity(text.len().min(PART) / 4);
        let mut rest = text;
        while !rest.is_empty() {
            let (part, after) = rest.split_at(rest.floor_char_boundary(PART));
            self.inner.encoder.encode_into(part, &options, &mut tokens).expect("a part of 1 GiB encodes");
            rest = after;
        }
        ids.extend(tokens.into_iter().map(u32::from));
    }

    /// Parts a text at the tokens that are spelled out in it.
    pub(super) fn segments<'t>(&'t self, text: &'t str) -> impl Iterator<Item = Segment<'t>> {
        SpecialSegmentIterator::new(text, self.inner.encoder.get_added_vocabulary(), false, false)
    }

    /// The bytes that ids stand for, as a text of its own: SentencePiece's leading space is dropped.
    ///
    /// Bytes, not text: ids from a model may stop within a character. Ids outside of the vocabulary leave nothing.
    pub fn decode(&self, ids: &[u32], control: Control) -> Vec<u8> {
        let mut decoder = self.stream(control).at_start();
        ids.iter().for_each(|id| decoder.take(*id));
        decoder.pending
    }

    /// [`Self::decode`] with U+FFFD for bytes that are no text.
    pub fn decode_lossy(&self, ids: &[u32], control: Control) -> String {
        String::from_utf8_lossy(&self.decode(ids, control)).into_owned()
    }

    /// Decodes ids one by one, as they follow on a prompt.
    pub fn stream(&self, control: Control) -> Decoder {
        Decoder { tokenizer: self.clone(), control, pending: Vec::new(), drop_space: false }
    }

    /// Tokens after which an answer is complete, ascending: EOS, end of turn, end of message, and their kin by text.
    pub fn end_tokens(&self) -> &[u32] {
        &self.inner.end_tokens
    }

    /// The token that begins a text.
    pub fn bos(&self) -> Option<u32> {
        self.inner.bos
    }

    /// The token that ends a text.
    pub fn eos(&self) -> Option<u32> {
        self.inner.eos
    }

    /// Number of tokens; ids are below it.
    pub fn vocab_size(&self) -> usize {
        self.inner.vocabulary.len()
    }

    /// The bytes that a token stands for; none for an id outside of the vocabulary.
    pub fn piece(&self, id: u32) -> &[u8] {
        self.inner.vocabulary.piece(id)
    }

    /// What a token is for.
    pub fn token_type(&self, id: u32) -> Option<TokenType> {
        self.inner.vocabulary.token_type(id)
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("vocab_size", &self.vocab_size()).finish_non_exhaustive()
    }
}

/// Turns ids into text while they come in: only whole characters leave it.
#[derive(Clone, Debug)]
pub struct Decoder {
    tokenizer: Tokenizer,
    control: Control,
    /// Bytes of a character that is not complete.
    pending: Vec<u8>,
    /// The next text's first space is SentencePiece's own.
    drop_space: bool,
}

impl Decoder {
    /// The ids begin a text, instead of going on with one: drops SentencePiece's leading space.
    pub fn at_start(mut self) -> Self {
        self.drop_space = self.tokenizer.inner.space_prefix;
        self
    }

    /// The text that an id completes. Bytes that cannot be part of a character become U+FFFD at once.
    pub fn push(&mut self, id: u32) -> String {
        self.take(id);
        let mut text = String::new();
        let mut rest = &self.pending[..];
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    text.push_str(std::str::from_utf8(valid).expect("valid up to here"));
                    rest = after;
                    // `None`: the bytes may still become a character.
                    let Some(bad) = error.error_len() else { break };
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = &rest[bad..];
                }
            }
        }
        let kept = self.pending.len() - rest.len();
        self.pending.drain(..kept);
        text
    }

    /// Ends the stream: U+FFFD if a character was left incomplete.
    pub fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned()
    }

    fn take(&mut self, id: u32) {
        let vocabulary = &self.tokenizer.inner.vocabulary;
        let mut piece = vocabulary.piece(id);
        if vocabulary.token_type(id).is_some_and(TokenType::is_control) {
            if self.control == Control::Skip {
                return;
            }
        } else if std::mem::take(&mut self.drop_space) {
            piece = piece.strip_prefix(b" ").unwrap_or(piece);
        }
        self.pending.extend_from_slice(piece);
    }
}
