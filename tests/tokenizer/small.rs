//! Exact ids from vocabularies made here.

use halogen::gguf::{Array, Value};
use halogen::tokenizer::{Control, Special, TokenType};

use crate::made::*;

#[test]
fn small_vocabulary_of_bytes() {
    let tokenizer = build(&small_byte_level());
    let encode = |text| tokenizer.encode(text, Special::Text);
    assert_eq!(encode("hello"), [259]);
    assert_eq!(encode("hell o"), [258, 32, 111]);
    assert_eq!(encode("   world"), [262, 260, 111, 114, 108, 100]);
    assert_eq!(encode("é🦙"), [261, 0xf0, 0x9f, 0xa6, 0x99]);
    assert!(encode("").is_empty());
    // User-defined tokens are matched in any text, control tokens where asked for.
    assert_eq!(encode("<think>he"), [265, 256]);
    assert_eq!(encode("<s>"), [60, 115, 62]);
    assert_eq!(tokenizer.encode("<s>he<|im_end|>", Special::Token), [263, 256, 264]);

    assert_eq!(tokenizer.encode_prompt("he", Special::Token), [256]);
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.vocab_size()), (Some(263), Some(264), 266));
    assert_eq!(tokenizer.end_tokens(), [264]);
    assert_eq!(tokenizer.token_type(265), Some(TokenType::UserDefined));
    assert_eq!(tokenizer.token_type(266), None);
    assert_eq!(tokenizer.piece(260), b" w");
    assert_eq!(tokenizer.piece(0xff), [0xff]);
    assert_eq!(tokenizer.piece(266), b"");
    let ids = [263, 259, 265, 264, 999];
    assert_eq!(tokenizer.decode(&ids, Control::Skip), b"hello<think>");
    assert_eq!(tokenizer.decode(&ids, Control::Show), b"<s>hello<think><|im_end|>");
}

#[test]
fn bos_is_added_once() {
    let mut metadata = small_byte_level();
    metadata.insert("tokenizer.ggml.add_bos_token", Value::Bool(true));
    let tokenizer = build(&metadata);
    assert_eq!(tokenizer.encode_prompt("he", Special::Token), [263, 256]);
    assert_eq!(tokenizer.encode_prompt("<s>he", Special::Token), [263, 256]);
    assert_eq!(tokenizer.encode_prompt("", Special::Token), [263]);
    assert_eq!(tokenizer.encode("he", Special::Token), [256]);

    // Where the file does not say, the pre-tokenizer does.
    let mut metadata = small_byte_level();
    metadata.insert("tokenizer.ggml.pre", text("llama3"));
    assert_eq!(build(&metadata).encode_prompt("he", Special::Token), [263, 256]);
}

#[test]
fn small_vocabulary_with_scores() {
    let tokenizer = build(&small_sentence_piece("llama"));
    let encode = |text| tokenizer.encode(text, Special::Text);
    assert_eq!(encode("the"), [261]);
    assert_eq!(encode(" the"), [266, 261]);
    assert_eq!(encode("the\nthe"), [261, 271, 267, 260]);
    assert_eq!(encode("é"), [266, 3 + 0xc3, 3 + 0xa9]);
    assert_eq!(encode("aaaaaaa"), [266, 264, 265]);
    assert!(encode("").is_empty());
    // A space before the text, and after each control token.
    assert_eq!(tokenizer.encode("the<s>the", Special::Token), [261, 1, 261]);
    assert_eq!(tokenizer.encode_prompt("the", Special::Token), [1, 261]);
    assert_eq!(tokenizer.end_tokens(), [2]);

    assert_eq!(tokenizer.decode_lossy(&[1, 261, 261], Control::Skip), "the the");
    // Within a text, the space is the text's.
    let mut stream = tokenizer.stream(Control::Skip);
    assert_eq!([stream.push(261), stream.push(3 + 0xc3), stream.push(3 + 0xa9)], [" the", "", "é"]);

    let mut metadata = small_sentence_piece("llama");
    metadata.insert("tokenizer.ggml.add_space_prefix", Value::Bool(false));
    let tokenizer = build(&metadata);
    assert_eq!(tokenizer.encode("the", Special::Text), [267, 260]);
    assert_eq!(tokenizer.decode_lossy(&[261], Control::Skip), " the");
}

#[test]
fn small_vocabulary_of_gemma4() {
    let tokenizer = build(&small_sentence_piece("gemma4"));
    let encode = |text| tokenizer.encode(text, Special::Text);
    assert_eq!(encode("the the"), [267, 260, 261]);
    assert_eq!(encode("  the"), [266, 261]);
    assert_eq!(encode("\n\n\nthe"), [272, 271, 267, 260]);
    assert_eq!(encode("é"), [3 + 0xc3, 3 + 0xa9]);
    assert_eq!(tokenizer.encode_prompt("the", Special::Text), [1, 267, 260]);
    assert_eq!(tokenizer.decode_lossy(&[261], Control::Skip), " the");
}

#[test]
fn end_tokens_by_text() {
    let end_tokens = |texts: &[&str]| {
        let mut metadata = small_byte_level();
        let tokens: Vec<Vec<u8>> =
            metadata.strings("tokenizer.ggml.tokens").unwrap().unwrap().into_iter().map(Vec::from).collect();
        let types = metadata.i32s("tokenizer.ggml.token_type").unwrap().unwrap();
        let more = texts.iter().map(|text| text.as_bytes().to_vec());
        metadata.insert("tokenizer.ggml.tokens", strings(tokens.into_iter().chain(more)));
        let types = types.into_iter().chain(texts.iter().map(|_| CONTROL)).collect();
        metadata.insert("tokenizer.ggml.token_type", Value::Array(Array::I32(types)));
        build(&metadata).end_tokens().to_vec()
    };
    assert_eq!(end_tokens(&["<|eot_id|>", "<|x|>", "<｜end▁of▁sentence｜>", "[EOS]"]), [264, 266, 268, 269]);
    assert_eq!(end_tokens(&["<|end|>"]), [264, 266]);
    // gpt-oss: <|end|> ends a message, not the answer.
    assert_eq!(end_tokens(&["<|end|>", "<|return|>", "<|call|>"]), [264, 267, 268]);
}

/// A token that ends turns is a control token, whatever the file calls it.
#[test]
fn user_defined_ends_are_control() {
    let mut metadata = small_byte_level();
    let mut types = metadata.i32s("tokenizer.ggml.token_type").unwrap().unwrap();
    types[264] = USER_DEFINED;
    metadata.insert("tokenizer.ggml.token_type", Value::Array(Array::I32(types)));
    let tokenizer = build(&metadata);
    assert_eq!(tokenizer.token_type(264), Some(TokenType::Control));
    assert!(!tokenizer.encode("<|im_end|>", Special::Text).contains(&264));
}
