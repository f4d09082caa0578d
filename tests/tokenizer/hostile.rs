//! Files made to break the tokenizer end in errors that say what is wrong.

use halogen::gguf::{Array, Metadata, Value};
use halogen::tokenizer::{Control, Special, Tokenizer};

use crate::made::*;

/// The error of the small vocabulary with one key replaced.
fn refused(metadata: fn() -> Metadata, key: &str, value: Value) -> String {
    let mut metadata = metadata();
    metadata.insert(format!("tokenizer.ggml.{key}"), value);
    Tokenizer::from_metadata(&metadata).unwrap_err().to_string()
}

fn small_scores() -> Metadata {
    small_sentence_piece("llama")
}

#[test]
fn errors_name_what_is_wrong() {
    let bytes = |key, value| refused(small_byte_level, key, value);
    let scores = |key, value| refused(small_scores, key, value);
    assert_eq!(Tokenizer::from_metadata(&Metadata::new()).unwrap_err().to_string(), "tokenizer.ggml.model is missing");
    assert!(bytes("model", text("t5")).contains(r#"tokenizer.ggml.model = "t5" is not supported"#));
    let unknown = bytes("pre", text("new-bpe"));
    assert!(unknown.contains(r#"tokenizer.ggml.pre = "new-bpe" is not supported: known are qwen2, "#), "{unknown}");
    assert_eq!(bytes("tokens", strings([""; 0])), "tokenizer.ggml.tokens is missing");
    assert_eq!(bytes("token_type", i32s(&[1])), "tokenizer.ggml.token_type: 1 entries for 266 tokens");
    assert_eq!(bytes("token_type", i32s(&[7; 266])), "tokenizer.ggml.token_type[0] = 7: known are 0 to 6");
    let out = "tokenizer.ggml.eos_token_id = 266 is outside of the vocabulary of 266 tokens";
    assert_eq!(bytes("eos_token_id", Value::U32(266)), out);
    assert!(bytes("bos_token_id", Value::I32(-1)).contains("tokenizer.ggml.bos_token_id"));
    assert!(bytes("tokens", Value::U32(1)).contains("tokenizer.ggml.tokens"));
    assert!(
        bytes("merges", strings(["h e", "h x"])).contains(r#"merges[1] = "h x": the parts joined are not a token"#)
    );
    assert!(bytes("merges", strings(["xy e"])).contains("the first part is not a token"));
    assert!(bytes("merges", strings(["e xy"])).contains("the second part is not a token"));
    assert!(bytes("merges", strings(["he"])).contains("no two parts"));
    assert!(bytes("merges", strings([&b"\xff e"[..]])).contains("not UTF-8"));
    assert_eq!(scores("scores", f32s(&[0.0])), "tokenizer.ggml.scores: 1 entries for 273 tokens");
    assert_eq!(scores("scores", f32s(&[f32::NAN; 273])), "tokenizer.ggml.scores[0] is not a number");
    let long = vec![String::from("a").repeat(5000); 266];
    assert_eq!(bytes("tokens", strings(long)), "tokenizer.ggml.tokens[0] has 5000 bytes, over the limit of 4096");
    // A byte without a token: the text that holds it could not be encoded.
    assert!(bytes("tokens", strings(vec!["a"; 266])).starts_with("tokenizer.ggml."));
}

fn i32s(items: &[i32]) -> Value {
    Value::Array(Array::I32(items.into()))
}

fn f32s(items: &[f32]) -> Value {
    Value::Array(Array::F32(items.into()))
}

#[test]
fn tokens_that_are_no_text() {
    let mut tokens: Vec<Vec<u8>> = (0..=255).map(|byte| printable(byte).to_string().into_bytes()).collect();
    tokens.extend([b"\xff\xfe".to_vec(), b"".to_vec(), b"a".to_vec(), b"a".to_vec()]);
    let mut metadata = small_byte_level();
    metadata.insert("tokenizer.ggml.tokens", strings(&tokens));
    metadata.insert("tokenizer.ggml.token_type", i32s(&vec![NORMAL; tokens.len()]));
    metadata.insert("tokenizer.ggml.merges", strings([""; 0]));
    metadata.insert("tokenizer.ggml.bos_token_id", Value::U32(0));
    metadata.insert("tokenizer.ggml.eos_token_id", Value::U32(0));
    let tokenizer = build(&metadata);
    assert_eq!(tokenizer.decode(&[256, 257, 258, 259, 97], Control::Skip), b"\xff\xfeaaa");
    // Of equal tokens the last, as in llama.cpp.
    assert_eq!(tokenizer.encode("ab", Special::Text), [259, 98]);
}

/// The library's table of the first 512 symbols' pairs would panic.
#[test]
fn too_many_dense_merges() {
    let mut tokens: Vec<(String, i32)> = (0..=255).map(|byte| (printable(byte).into(), NORMAL)).collect();
    tokens.extend((0..100).map(|i| (char::from_u32(0x4e00 + i).unwrap().into(), NORMAL)));
    let letters: Vec<String> = tokens.iter().map(|(token, _)| token.clone()).collect();
    let mut merges = Vec::new();
    for left in &letters {
        for right in &letters {
            merges.push(format!("{left} {right}"));
            tokens.push((format!("{left}{right}"), NORMAL));
        }
    }
    let metadata = metadata("gpt2", &tokens, &[("pre", text("qwen2")), ("merges", strings(&merges))]);
    let error = Tokenizer::from_metadata(&metadata).unwrap_err().to_string();
    assert!(error.contains("joins the first 512 symbols in 126736 ways"), "{error}");
}

/// One word of a megabyte, and a megabyte of words. Debug builds and busy machines are slow: the bound is loose, and
/// what it rules out is quadratic time, which would take hours.
#[test]
fn long_texts() {
    let mixed = "Ünïcode 你好 हिन्दी 🦙 <x> 12345\n\t".repeat(1 << 14);
    for tokenizer in [build(&small_byte_level()), build(&small_scores()), build(&small_sentence_piece("gemma4"))] {
        for text in [" ".repeat(1 << 20), "a".repeat(1 << 20), "<".repeat(1 << 20), mixed.clone()] {
            let start = std::time::Instant::now();
            let ids = tokenizer.encode(&text, Special::Token);
            assert_eq!(tokenizer.decode(&ids, Control::Show), text.as_bytes());
            assert!(start.elapsed().as_secs() < 20);
        }
    }
}
