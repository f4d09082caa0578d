//! The tokenizer against ids that other implementations computed, and against vocabularies made here.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use halogen::gguf::{Gguf, Metadata, Value};
use halogen::tokenizer::{Control, Error, PreTokenizer, Special, TokenType, Tokenizer};
use proptest::prelude::*;

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/rust-docs-moe-q4_k_m.gguf");

fn open(path: &Path) -> Tokenizer {
    Tokenizer::from_metadata(Gguf::open(path).unwrap().metadata()).unwrap()
}

fn json(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn ids(value: &serde_json::Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

/// The published vocabularies, which are not halogen's to ship: a vocabulary, and texts with their ids beside it.
fn golden(test: &str) -> Vec<PathBuf> {
    let Some(folder) = std::env::var_os("HALOGEN_GOLDEN") else {
        // Not through the test harness, which would hide it.
        writeln!(std::io::stderr(), "skipped: {test}: HALOGEN_GOLDEN names no folder with tokenizers/*.gguf").unwrap();
        return Vec::new();
    };
    let files = std::fs::read_dir(Path::new(&folder).join("tokenizers")).unwrap();
    let files = files.map(|file| file.unwrap().path());
    let mut files: Vec<_> = files.filter(|path| path.extension().is_some_and(|e| e == "gguf")).collect();
    files.sort();
    assert!(!files.is_empty(), "{folder:?} holds no tokenizers");
    files
}

#[test]
fn published_vocabularies() {
    for path in golden("published_vocabularies") {
        let tokenizer = open(&path);
        for case in json(&path.with_extension("json")).as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            let expected = ids(&case["ids"]);
            assert_eq!(tokenizer.encode(text, Special::Text), expected, "{}: {text:?}", path.display());
            assert_eq!(tokenizer.decode_lossy(&expected, Control::Skip), text, "{}", path.display());
        }
    }
}
