//! What is encoded decodes to itself, in one piece or token by token.

use halogen::tokenizer::{Control, Special, Tokenizer};
use proptest::prelude::*;

use crate::made::{build, small_byte_level, small_sentence_piece};
use crate::published::{DEMO, open};

/// All texts, the awkward ones often.
fn texts() -> impl Strategy<Value = String> {
    prop_oneof![any::<String>(), r"( |\n|a|aa|the|é|🦙|<think>|<\|im_end\|>|\PC){0,40}"]
}

/// The ids of any model's answer: not all are text.
fn streams_as_one(tokenizer: &Tokenizer, ids: &[u32]) {
    let mut stream = tokenizer.stream(Control::Show).at_start();
    let mut text: String = ids.iter().map(|id| stream.push(*id)).collect();
    text.push_str(&stream.finish());
    assert_eq!(text, tokenizer.decode_lossy(ids, Control::Show), "{ids:?}");
}

proptest! {
    #[test]
    fn bytes(text in texts()) {
        for tokenizer in [build(&small_byte_level()), open(DEMO.as_ref())] {
            let ids = tokenizer.encode(&text, Special::Text);
            prop_assert_eq!(tokenizer.decode(&ids, Control::Show), text.as_bytes());
            streams_as_one(&tokenizer, &ids);
        }
    }

    #[test]
    fn sentence_piece(text in texts()) {
        for model in ["llama", "gemma4"] {
            let tokenizer = build(&small_sentence_piece(model));
            let ids = tokenizer.encode(&text, Special::Text);
            // `▁` is how the vocabulary spells a space, so no text keeps it.
            prop_assert_eq!(tokenizer.decode_lossy(&ids, Control::Show), text.replace('▁', " "));
            streams_as_one(&tokenizer, &ids);
        }
    }

    #[test]
    fn any_ids(ids in prop::collection::vec(0u32..300, 0..40)) {
        for metadata in [small_byte_level(), small_sentence_piece("llama")] {
            streams_as_one(&build(&metadata), &ids);
        }
    }
}

#[test]
fn characters_leave_when_they_are_whole() {
    let tokenizer = build(&small_byte_level());
    let mut stream = tokenizer.stream(Control::Skip);
    let pushed: Vec<String> = [0xf0, 0x9f, 0xa6, 0x99, 0xf0, 0x41, 0xff, 0xc3].map(|id| stream.push(id)).into();
    assert_eq!(pushed, ["", "", "", "🦙", "", "\u{fffd}A", "\u{fffd}", ""]);
    assert_eq!(stream.finish(), "\u{fffd}");
    assert_eq!(stream.finish(), "");
}
