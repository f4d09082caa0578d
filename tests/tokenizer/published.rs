//! The published vocabularies, the demo model's, and the published patterns.

use std::collections::HashMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use halogen::gguf::Gguf;
use halogen::tokenizer::{Control, PreTokenizer, Special, Tokenizer};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

pub const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/rust-docs-moe-q4_k_m.gguf");

pub fn open(path: &Path) -> Tokenizer {
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
        let mut terminal = std::io::stderr();
        writeln!(terminal, "skipped: {test}: HALOGEN_GOLDEN names no folder with tokenizers/*.gguf").unwrap();
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

/// SentencePiece's own algorithm, in its plainest form: join the neighbours whose joint token scores best, leftmost
/// first, until none are left.
fn by_scores(ids: &HashMap<&[u8], usize>, scores: &[f32], text: &str) -> Vec<u32> {
    let escaped = format!("▁{}", text.replace(' ', "▁"));
    let mut symbols: Vec<&[u8]> = escaped.split("").filter(|c| !c.is_empty()).map(str::as_bytes).collect();
    loop {
        let joint = |i: usize| {
            let joined = [symbols[i], symbols[i + 1]].concat();
            Some((scores[*ids.get(joined.as_slice())?], std::cmp::Reverse(i)))
        };
        let best = (0..symbols.len() - 1).filter_map(joint).max_by(|a, b| a.partial_cmp(b).unwrap());
        let Some((_, std::cmp::Reverse(i))) = best else { break };
        let start = symbols[..i].iter().map(|symbol| symbol.len()).sum::<usize>();
        let end = start + symbols[i].len() + symbols[i + 1].len();
        symbols.splice(i..i + 2, [&escaped.as_bytes()[start..end]]);
    }
    let bytes = |symbol: &[u8]| symbol.iter().map(|byte| ids[format!("<0x{byte:02X}>").as_bytes()]).collect();
    let id = |symbol: &&[u8]| ids.get(symbol).map_or_else(|| bytes(symbol), |id| vec![*id]);
    symbols.iter().flat_map(id).map(|id| id as u32).collect()
}

/// The library merges by rank; that must come to the same as SentencePiece's scores.
#[test]
fn ranks_are_scores() {
    for path in golden("ranks_are_scores").into_iter().filter(|path| path.ends_with("llama-spm.gguf")) {
        let file = Gguf::open(&path).unwrap();
        let tokens = file.metadata().strings("tokenizer.ggml.tokens").unwrap().unwrap();
        let scores = file.metadata().f32s("tokenizer.ggml.scores").unwrap().unwrap();
        let ids = tokens.iter().enumerate().map(|(id, token)| (*token, id)).collect();
        let tokenizer = open(&path);
        let mut runner = TestRunner::new(Config::with_cases(3000));
        let runs = "([a-e ]|aa|  |the |ing|\\n|é|你){1,60}";
        let texts = prop_oneof![Just(runs), Just("[ a-zA-Z.,0-9]{1,80}"), Just(" {1,70}"), Just("\\PC{1,30}")];
        let texts = texts.prop_flat_map(|pattern| proptest::string::string_regex(pattern).unwrap());
        let same = |text: String| {
            prop_assert_eq!(tokenizer.encode(&text, Special::Text), by_scores(&ids, &scores, &text), "{:?}", text);
            Ok(())
        };
        runner.run(&texts, same).unwrap();
    }
}

#[test]
fn demo_prompts() {
    let tokenizer = open(DEMO.as_ref());
    for case in
        json(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/demo-expected.json").as_ref())["complete"].as_array().unwrap()
    {
        let text = case["prompt"].as_str().unwrap();
        assert_eq!(tokenizer.encode_prompt(text, Special::Text), ids(&case["prompt_ids"]), "{text:?}");
        let answer = tokenizer.decode_lossy(&ids(&case["ids"]), Control::Skip);
        assert_eq!(answer, case["text"].as_str().unwrap());
    }
}

/// Where each published pattern cuts; computed with Python's `regex` from the patterns as their models' authors wrote
/// them.
#[test]
#[rustfmt::skip]
fn words() {
    const TEXT: &str = "I'll say: He's RED-hot_99 x12345 ÀÉo हिन्दी 你好ひらがなカタ한국 camelCase HTTPServer (a/b)\r\n\n  two   end  \n\tfoo!!! 'S e\u{301}t½ ";
    for (name, words) in [
        ("gpt-2", "I¦'ll¦ say¦:¦ He¦'s¦ RED¦-¦hot¦_¦99¦ x¦12345¦ ÀÉo¦ ह¦ि¦न¦्¦द¦ी¦ 你好ひらがなカタ한국¦ camelCase¦ HTTPServer¦ (¦a¦/¦b¦)¦\r\n\n ¦ two¦  ¦ end¦  \n¦\t¦foo¦!!!¦ '¦S¦ e¦\u{301}¦t¦½¦ "),
        ("qwen2", "I¦'ll¦ say¦:¦ He¦'s¦ RED¦-hot¦_¦9¦9¦ x¦1¦2¦3¦4¦5¦ ÀÉo¦ ह¦िन¦्द¦ी¦ 你好ひらがなカタ한국¦ camelCase¦ HTTPServer¦ (¦a¦/b¦)\r\n\n¦ ¦ two¦  ¦ end¦  \n¦\tfoo¦!!!¦ '¦S¦ e¦\u{301}t¦½¦ "),
        ("qwen35", "I¦'ll¦ say¦:¦ He¦'s¦ RED¦-hot¦_¦9¦9¦ x¦1¦2¦3¦4¦5¦ ÀÉo¦ हिन्दी¦ 你好ひらがなカタ한국¦ camelCase¦ HTTPServer¦ (¦a¦/b¦)\r\n\n¦ ¦ two¦  ¦ end¦  \n¦\tfoo¦!!!¦ '¦S¦ e\u{301}t¦½¦ "),
        ("llama-bpe", "I¦'ll¦ say¦:¦ He¦'s¦ RED¦-hot¦_¦99¦ x¦123¦45¦ ÀÉo¦ ह¦िन¦्द¦ी¦ 你好ひらがなカタ한국¦ camelCase¦ HTTPServer¦ (¦a¦/b¦)\r\n\n¦ ¦ two¦  ¦ end¦  \n¦\tfoo¦!!!¦ '¦S¦ e¦\u{301}t¦½¦ "),
        ("gpt-4o", "I'll¦ say¦:¦ He's¦ RED¦-hot¦_¦99¦ x¦123¦45¦ ÀÉo¦ हिन्दी¦ 你好ひらがなカタ한국¦ camel¦Case¦ HTTPServer¦ (¦a¦/b¦)\r\n\n¦ ¦ two¦  ¦ end¦  \n¦\tfoo¦!!!¦ '¦S¦ e\u{301}t¦½¦ "),
        ("tekken", "I¦'ll¦ say¦:¦ He¦'s¦ RED¦-hot¦_¦9¦9¦ x¦1¦2¦3¦4¦5¦ ÀÉo¦ हिन्दी¦ 你好ひらがなカタ한국¦ camel¦Case¦ HTTPServer¦ (¦a¦/b¦)\r\n\n¦ ¦ two¦  ¦ end¦  \n¦\tfoo¦!!!¦ '¦S¦ e\u{301}t¦½¦ "),
        ("kimi-k2", "I'll¦ say¦:¦ He's¦ RED¦-hot¦_¦99¦ x¦123¦45¦ ÀÉo¦ हिन्दी¦ ¦你好¦ひらがなカタ한국¦ camel¦Case¦ HTTPServer¦ (¦a¦/b¦)\r\n\n¦ ¦ two¦  ¦ end¦  \n¦\tfoo¦!!!¦ '¦S¦ e\u{301}t¦½¦ "),
        ("deepseek-llm", "I¦'¦ll¦ say¦:¦ He¦'¦s¦ RED¦-¦hot¦_¦9¦9¦ x¦1¦2¦3¦4¦5¦ ÀÉ¦o¦ ¦हिन्दी¦ ¦你好ひらがなカタ한국¦ camelCase¦ HTTPServer¦ (¦a¦/¦b¦)¦\r¦\n¦\n¦ ¦ two¦  ¦ end¦  ¦\n¦\tfoo¦!!!¦ '¦S¦ e¦\u{301}¦t¦½¦ "),
        ("deepseek-v3", "I¦'ll¦ say¦:¦ He¦'s¦ RED¦-hot¦_¦99¦ x¦123¦45¦ ÀÉo¦ हिन्दी¦ ¦你好ひらがなカタ¦한국¦ camelCase¦ HTTPServer¦ (¦a¦/b¦)\r\n\n¦ ¦ two¦  ¦ end¦  \n¦\tfoo¦!!!¦ '¦S¦ e\u{301}t¦½¦ "),
    ] {
        assert_eq!(PreTokenizer::named(name).unwrap().split(TEXT).unwrap().join("¦"), words, "{name}");
    }
    assert_eq!(PreTokenizer::named("glm4").unwrap().split("1234").unwrap(), ["123", "4"]);
}
