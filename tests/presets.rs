//! Layers of every architecture at the sizes of a published model, made up and without a file. Steps of one token, of few and
//! of many run different kernels of every product, of attention and of mixtures; at these sizes, too, they must say the same.
//! What each kernel computes there is held against its twin by `conformance`, which takes the sizes of all presets.

mod common;

use common::{gpu, load, worst_nmse};
use halogen::memory::KvFormat;
use halogen::presets::{ModelPreset, Synthetic};
use halogen::session::{Session, SessionOptions};
use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::{Value, json};

/// Of all presets: the head's matrices are as long as the vocabulary, and have no other kernel for it.
const VOCABULARY: usize = 512;
const TOKENS: [u32; 9] = [3, 141, 59, 26, 53, 58, 97, 93, 238];
/// NMSE between two ways through the same tokens, as among golden logits.
const BOUND: f64 = 1e-6;

/// Presets with so many layers that each kind of theirs is there, and hyperparameters that bring those closer together.
const LAYERS: &[(&str, usize, &str)] = &[
    ("deepseek-r1", 2, r#"{ "leading_dense_block_count": 1 }"#),
    ("deepseek-r1-distill-32b", 1, "{}"),
    ("deepseek-v4-flash", 3, V4),
    ("devstral-2-123b", 1, "{}"),
    ("gemma-3-4b", 6, "{}"),
    ("gemma-4-26b-a4b", 2, TWO_KINDS),
    ("gemma-4-31b", 2, TWO_KINDS),
    ("glm-4.5-air", 2, "{}"),
    ("glm-5", 2, r#"{ "leading_dense_block_count": 1 }"#),
    ("gpt-oss-20b", 2, "{}"),
    ("llama-3.3-70b", 1, "{}"),
    ("llama-4-maverick", 2, "{}"),
    ("llama-4-scout", 1, "{}"),
    ("qwen3-14b", 1, "{}"),
    ("qwen3-235b-a22b", 1, "{}"),
    ("qwen3-30b-a3b", 1, "{}"),
    ("qwen3-next-80b-a3b", 2, r#"{ "full_attention_interval": 2 }"#),
    ("qwen3.5-397b-a17b", 2, r#"{ "full_attention_interval": 2 }"#),
    ("step-3.5-flash", 2, r#"{ "leading_dense_block_count": 1 }"#),
];
/// No compression, every fourth position, every 128th; tokens choose experts by their ids in the first layer.
const V4: &str = r#"{ "attention.compress_ratios": [0, 4, 128], "hash_layer_count": 1 }"#;
/// Of gemma4: a window, then all positions.
const TWO_KINDS: &str = r#"{
    "attention.sliding_window_pattern": { "cycle": [true, false] }, "attention.head_count_kv": { "cycle": [8, 2] } }"#;

fn main() {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let models: Vec<Value> = serde_json::from_str(include_str!("../src/presets/models.json")).expect("JSON");
    let trials = LAYERS.iter().map(|&(name, layers, keys)| {
        let model = models.iter().find(|m| m["name"] == name).expect("a preset").clone();
        Trial::test(name, move || check(model, layers, serde_json::from_str(keys)?))
    });
    libtest_mimic::run(&arguments, trials.collect()).exit();
}

fn check(mut model: Value, layers: usize, keys: Value) -> Result<(), Failed> {
    model["vocabulary"] = json!(VOCABULARY);
    let of_model = model["keys"].as_object_mut().ok_or("no keys")?;
    of_model.extend(keys.as_object().ok_or("no object")?.clone());
    // Fewer experts of the same size: all of them would be gigabytes a layer. Routers have all of theirs in `conformance`.
    if let Some(used) = of_model.get("expert_used_count").and_then(Value::as_u64) {
        of_model.insert("expert_count".into(), json!(2 * used));
    }
    let preset: ModelPreset = serde_json::from_value(model)?;
    let gguf = Synthetic::new(&preset, preset.format(), layers, 1)?.gguf()?;
    let options = SessionOptions { context: Some(64), kv: KvFormat::F32, ..SessionOptions::default() };
    let mut session = Session::new(&load(gpu(), &gguf)?, &options)?;
    let whole = session.blocking_logits(&TOKENS, TOKENS.len())?;
    for row in whole.chunks_exact(VOCABULARY) {
        let mean = row.iter().sum::<f32>() / row.len() as f32;
        let spread = (row.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / row.len() as f32).sqrt();
        // A NaN is in no range.
        assert!((0.03..30.0).contains(&spread), "logits spread by {spread}");
    }
    for chunk in [1, 3] {
        let parts = session.blocking_logits(&TOKENS, chunk)?;
        let worst = worst_nmse(&whole, &parts, TOKENS.len());
        assert!(worst <= BOUND, "in steps of {chunk}: NMSE {worst:.1e} at the worst token, {BOUND:.0e} allowed");
    }
    Ok(())
}
