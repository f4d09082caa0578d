//! Made-up models: what their headers say is what the loader wants, and activations stay finite through all layers.

use crate::common::{gpu, load};
use halogen::bench::{chosen_experts, share_of_tenth};
use halogen::formats::Format;
use halogen::memory::Routing;
use halogen::presets::{Mixture, ModelPreset, Synthetic};
use halogen::session::{Model, Session, SessionOptions};
use std::sync::Arc;

const COMMON: &str = r#""block_count": 6, "context_length": 128, "embedding_length": 256, "feed_forward_length": 512,
    "attention.head_count": 4, "attention.head_count_kv": 2, "attention.key_length": 64, "attention.value_length": 64,
    "attention.sliding_window": 16, "rope.freq_base": 10000.0, "attention.layer_norm_rms_epsilon": 1e-6"#;
pub const EXPERTS: &str = r#", "expert_count": 8, "expert_used_count": 2, "expert_feed_forward_length": 256"#;
/// Of a latent of 64 and 32 turned values in the cache, heads of 32 + 32 and 64.
pub const LATENT: &str = r#", "attention.head_count_kv": 1, "attention.key_length": 96, "attention.value_length": 64,
    "attention.key_length_mla": 64, "attention.value_length_mla": 64, "attention.q_lora_rank": 64,
    "attention.kv_lora_rank": 64, "expert_gating_func": 2, "expert_group_count": 1, "expert_group_used_count": 1"#;
pub const GLM: &str = r#", "leading_dense_block_count": 1, "expert_shared_count": 1, "rope.dimension_count": 32"#;
/// Delta nets, but for every other layer, and an expert that all share.
pub const DELTA: &str = r#", "full_attention_interval": 2, "ssm.state_size": 64, "ssm.inner_size": 256, "ssm.group_count": 2,
    "ssm.time_step_rank": 4, "ssm.conv_kernel": 4, "expert_shared_feed_forward_length": 256, "rope.dimension_count": 32"#;

pub fn preset(architecture: &str, more: &str) -> ModelPreset {
    let text = format!(
        r#"{{ "name": "tiny {architecture}", "source": "none", "architecture": "{architecture}", "vocabulary": 96,
            "keys": {{ {COMMON}{more} }}, "published": {{ "total": "1B" }} }}"#
    );
    serde_json::from_str(&text).expect("a preset")
}

pub fn model(preset: &ModelPreset, mixture: Mixture, seed: u64) -> Arc<Model> {
    let gguf = Synthetic::new(preset, mixture, 6, seed).and_then(Synthetic::gguf).expect("a header");
    load(gpu(), &gguf).expect("it loads")
}

/// Logits [tokens, 96] of a made-up model.
fn logits(preset: &ModelPreset, mixture: Mixture, seed: u64) -> Vec<f32> {
    let model = model(preset, mixture, seed);
    let mut session = Session::new(&model, &SessionOptions::default()).expect("a session");
    session.blocking_logits(&[1, 2, 3, 4, 5, 6, 7, 8], 8).expect("logits")
}

fn check(name: &str, logits: &[f32]) {
    assert!(logits.iter().all(|v| v.is_finite()), "{name}");
    for row in logits.chunks(96) {
        let mean = row.iter().sum::<f32>() / 96.0;
        let spread = (row.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / 96.0).sqrt();
        assert!((0.1..10.0).contains(&spread), "{name}: logits spread by {spread}");
    }
}

#[test]
fn every_architecture_runs_on_made_up_weights() {
    let glm = EXPERTS.to_string() + GLM;
    let llama4 = EXPERTS.to_string() + r#", "interleave_moe_layer_step": 2"#;
    let (deepseek, next) = (glm.clone() + LATENT, EXPERTS.to_string() + DELTA);
    let architectures = [
        ("deepseek2", deepseek.as_str()),
        ("gemma3", ""),
        ("glm4moe", &glm),
        ("gpt-oss", EXPERTS),
        ("llama", ""),
        ("llama4", &llama4),
        ("mistral3", ""),
        ("qwen2", ""),
        ("qwen3", ""),
        ("qwen3moe", EXPERTS),
        ("qwen3next", &next),
    ];
    for (architecture, more) in architectures {
        check(architecture, &logits(&preset(architecture, more), Mixture::Q4KM, 1));
    }
}

#[test]
fn mixtures_run_on_made_up_weights_and_a_seed_says_which() {
    let preset = preset("qwen3moe", EXPERTS);
    for format in ["q2_k", "iq1_s", "mxfp4", "nvfp4"] {
        check(format, &logits(&preset, format.parse().expect("a format"), 1));
    }
    let first = logits(&preset, Mixture::Q4KM, 1);
    assert_eq!(first, logits(&preset, Mixture::Q4KM, 1));
    assert_ne!(first, logits(&preset, Mixture::Q4KM, 2));
}

/// Routers of `architecture` that are to choose as `routing` says: the share of uses of the tenth that is asked to be used most, and
/// by how much the logs of how often ranks are used fall with those of the ranks, over all layers.
fn usage_of(architecture: &str, more: &str, routing: Routing) -> (f64, f64, f64) {
    const EXPERTS: usize = 40;
    let more = format!(
        r#", "expert_count": {EXPERTS}, "expert_used_count": 4, "expert_feed_forward_length": 64, "block_count": 4,
            "embedding_length": 512{more}"#
    );
    let text = format!(
        r#"{{ "name": "skewed {architecture}", "source": "none", "architecture": "{architecture}", "vocabulary": 1000,
            "keys": {{ {}{more} }}, "published": {{ "total": "1B" }} }}"#,
        COMMON.replace(r#""block_count": 6, "#, "").replace(r#""embedding_length": 256, "#, "")
    );
    let preset: ModelPreset = serde_json::from_str(&text).expect("a preset");
    let gguf = Synthetic::with_routing(&preset, Mixture::Pure(Format::Q8_0), 4, 1, routing)
        .and_then(Synthetic::gguf)
        .expect("a header");
    let mut session =
        Session::new(&load(gpu(), &gguf).expect("it loads"), &SessionOptions::default()).expect("a session");
    let chosen = chosen_experts(&mut session, EXPERTS, 128).expect("it runs");
    let usage = preset.usage(routing, 1).expect("a mixture");
    let mut by_rank = [0f64; EXPERTS];
    for (layer, counts) in &chosen {
        let ranks = usage.ranks(u64::from(*layer));
        ranks.iter().zip(counts).for_each(|(rank, count)| by_rank[*rank] += f64::from(*count));
    }
    // The first ranks may be used by every token; the last are used seldom.
    let points = (3..30).map(|r| (((r + 1) as f64).ln(), by_rank[r].max(0.5).ln()));
    let n = points.clone().count() as f64;
    let (mx, my) = (points.clone().map(|p| p.0).sum::<f64>() / n, points.clone().map(|p| p.1).sum::<f64>() / n);
    let slope = points.clone().map(|(x, y)| (x - mx) * (y - my)).sum::<f64>()
        / points.map(|(x, _)| (x - mx).powi(2)).sum::<f64>();
    (share_of_tenth(&chosen, &usage), usage.asked(), -slope)
}

#[test]
fn routers_choose_as_they_are_asked() {
    let glm = GLM.replace(r#""leading_dense_block_count": 1"#, r#""leading_dense_block_count": 0"#);
    let groups = r#""expert_group_count": 4, "expert_group_used_count": 2"#;
    let grouped = glm.clone() + &LATENT.replace(r#""expert_group_count": 1, "expert_group_used_count": 1"#, groups);
    assert!(grouped.contains(groups));
    let glm = glm.as_str();
    for (architecture, more) in [("qwen3moe", ""), ("glm4moe", glm), ("qwen3next", DELTA), ("deepseek2", &grouped)] {
        for (routing, exponent) in [(Routing::Uniform, 0.0), (Routing::Zipf(0.6), 0.6), (Routing::Zipf(1.2), 1.2)] {
            let (found, asked, slope) = usage_of(architecture, more, routing);
            let said = format!("{architecture} {routing}: tenth {found:.3}, asked {asked:.3}, exponent {slope:.2}");
            assert!((found - asked).abs() < 0.03 && (slope - exponent).abs() < 0.25, "{said}");
        }
    }
}
