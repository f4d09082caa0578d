//! Chat templates against what `transformers` renders, and what must not come through them.

use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use halogen::gguf::{Gguf, Metadata, Value};
use halogen::tokenizer::{Chat, ChatTemplate, Control, Error, Special, Tokenizer};
use serde_json::json;

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/rust-docs-moe-q4_k_m.gguf");

fn read(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// A conversation of one user's message.
fn ask(content: &str) -> Chat {
    Chat { messages: vec![json!({"role": "user", "content": content})], add_generation_prompt: true, ..Chat::default() }
}

#[test]
fn published_templates() {
    let Some(folder) = std::env::var_os("HALOGEN_GOLDEN") else {
        // Not through the test harness, which would hide it.
        let skipped = "skipped: published_templates: HALOGEN_GOLDEN names no folder with chat-templates/*.jinja";
        return writeln!(std::io::stderr(), "{skipped}").unwrap();
    };
    let mut cases = 0;
    for file in std::fs::read_dir(Path::new(&folder).join("chat-templates")).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "jinja") {
            continue;
        }
        let template = ChatTemplate::new(&std::fs::read_to_string(&path).unwrap()).unwrap();
        for case in read(&path.with_extension("json")).as_array().unwrap() {
            let chat = Chat {
                messages: case["messages"].as_array().unwrap().clone(),
                tools: case["tools"].as_array().cloned(),
                add_generation_prompt: case["add_generation_prompt"].as_bool().unwrap(),
                variables: case["variables"].as_object().unwrap().clone(),
                // 2026-11-20, noon
                now: Some(UNIX_EPOCH + Duration::from_secs(1_795_176_000)),
            };
            let name = format!("{}: {}", path.file_stem().unwrap().display(), case["case"]);
            match (template.render(&chat), case["expected"].as_str(), case["error"].as_str()) {
                (Ok(text), Some(expected), None) => assert_eq!(text, expected, "{name}"),
                (Err(Error::Refused(message)), None, Some(expected)) => assert_eq!(message, expected, "{name}"),
                // Python's sandbox has words of its own for methods that change a list; here there are none.
                (Err(Error::Template(_)), None, Some(expected)) if expected.ends_with("is unsafe.") => {}
                (result, expected, error) => panic!("{name}: {result:?}, expected {expected:?} {error:?}"),
            }
            cases += 1;
        }
    }
    assert!(cases > 0, "{folder:?} holds no chat templates");
}
