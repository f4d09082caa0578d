//! Vocabularies small enough to compute by hand.

use halogen::gguf::{Array, Metadata, Value};
use halogen::tokenizer::Tokenizer;

pub const NORMAL: i32 = 1;
pub const UNKNOWN: i32 = 2;
pub const CONTROL: i32 = 3;
pub const USER_DEFINED: i32 = 4;
pub const BYTE: i32 = 6;

pub fn strings(items: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Value {
    Value::Array(Array::String(items.into_iter().collect()))
}

pub fn text(text: &str) -> Value {
    Value::String(text.into())
}

pub fn metadata(model: &str, tokens: &[(String, i32)], more: &[(&str, Value)]) -> Metadata {
    let mut metadata = Metadata::new();
    metadata.insert("tokenizer.ggml.model", text(model));
    metadata.insert("tokenizer.ggml.tokens", strings(tokens.iter().map(|(token, _)| token)));
    metadata
        .insert("tokenizer.ggml.token_type", Value::Array(Array::I32(tokens.iter().map(|(_, kind)| *kind).collect())));
    for (key, value) in more {
        metadata.insert(format!("tokenizer.ggml.{key}"), value.clone());
    }
    metadata
}

/// GPT-2's printable character of a byte.
pub fn printable(byte: u8) -> char {
    match byte {
        b'!'..=b'~' | 0xa1..=0xac | 0xae.. => byte as char,
        0..=b' ' => char::from_u32(256 + u32::from(byte)).unwrap(),
        0x7f..=0xa0 => char::from_u32(256 + 33 + u32::from(byte - 0x7f)).unwrap(),
        0xad => '\u{143}',
    }
}

/// All bytes, a few merges, and three special tokens: 0 to 255, 256 to 262, 263 to 265.
pub fn small_byte_level() -> Metadata {
    let mut tokens: Vec<(String, i32)> = (0..=255).map(|byte| (printable(byte).into(), NORMAL)).collect();
    let merges = ["h e", "l l", "he ll", "hell o", "Ġ w", "Ã ©", "Ġ Ġ"];
    tokens.extend(merges.map(|merge| (merge.replace(' ', ""), NORMAL)));
    tokens.extend([("<s>".into(), CONTROL), ("<|im_end|>".into(), CONTROL), ("<think>".into(), USER_DEFINED)]);
    let more = [
        ("pre", text("qwen2")),
        ("merges", strings(merges)),
        ("bos_token_id", Value::U32(263)),
        ("eos_token_id", Value::U32(264)),
    ];
    metadata("gpt2", &tokens, &more)
}

/// Bytes, letters, and tokens whose scores imply the merges.
pub fn small_sentence_piece(model: &str) -> Metadata {
    let mut tokens = vec![("<unk>".into(), UNKNOWN), ("<s>".into(), CONTROL), ("</s>".into(), CONTROL)];
    tokens.extend((0..=255).map(|byte| (format!("<0x{byte:02X}>"), BYTE)));
    // 259 on, best first.
    let pieces = ["▁t", "he", "▁the", "▁▁", "aa", "aaaa", "aaa", "▁", "t", "h", "e", "a", "\n", "\n\n"];
    tokens.extend(pieces.map(|piece| (piece.into(), NORMAL)));
    let scores = (0..tokens.len()).map(|id| -(id as f32)).collect();
    let more = [
        ("scores", Value::Array(Array::F32(scores))),
        ("merges", strings(["▁ t", "h e", "▁t he", "▁ ▁", "a a", "aa aa", "\n \n"])),
        ("bos_token_id", Value::U32(1)),
        ("eos_token_id", Value::U32(2)),
    ];
    metadata(model, &tokens, &more)
}

pub fn build(metadata: &Metadata) -> Tokenizer {
    Tokenizer::from_metadata(metadata).unwrap()
}
