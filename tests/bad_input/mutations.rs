//! Models with whatever size, value or shape: refused in words, or run. Never a panic, which an error that the driver
//! reports out of place would be too.

use crate::common::*;
use halogen::formats::Format;
use halogen::gguf::Value;
use halogen::session::{Result, Sampling, Session, SessionOptions};
use std::panic::{AssertUnwindSafe, catch_unwind};

const ARCHITECTURES: [&str; 13] = [
    "llama",
    "qwen2",
    "qwen3",
    "qwen3moe",
    "glm4moe",
    "deepseek2",
    "deepseek4",
    "glm-dsa",
    "llama4",
    "step35",
    "gemma4",
    "qwen3next",
    "qwen35",
];

/// Loads a model and runs it a little.
fn run(made: &Made) -> Result<()> {
    let model = made.load()?;
    let options = SessionOptions { context: Some(12), chunk: 4, ..SessionOptions::default() };
    let mut session = Session::new(&model, &options)?;
    let vocabulary = model.shape().vocabulary;
    let tokens: Vec<u32> = (0..7).map(|i| i * 31 % vocabulary as u32).collect();
    for chunk in [4, 1] {
        assert_eq!(session.blocking_logits(&tokens, chunk)?.len(), 7 * vocabulary);
    }
    for sampling in [Sampling::greedy(), Sampling { repeat_penalty: 1.1, ..Sampling::default() }] {
        session.clear();
        let mut generation = session.generate(&tokens, &sampling, &[], 3)?;
        while let Some(token) = generation.blocking_next()? {
            assert!((token.id as usize) < vocabulary, "token {} of {vocabulary}", token.id);
        }
    }
    Ok(())
}

/// Runs what may be anything; whether it ran to the end.
fn survives(made: &Made, what: &str) -> bool {
    match catch_unwind(AssertUnwindSafe(|| run(made))) {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            let text = error.to_string();
            assert!(text.len() > 15 && text.len() < 600, "{what}: {text}");
            assert!(!text.contains("rejected"), "{what}: only the driver found it: {text}");
            eprintln!("{what}: {text}");
            false
        }
        Err(_) => panic!("{what}: a panic, see above"),
    }
}

fn pick<T: Copy>(noise: &mut Noise, from: &[T]) -> T {
    from[(noise.word() >> 33) as usize % from.len()]
}

/// Sizes at the edges of what kernels can do: these must run.
#[test]
fn models_of_odd_sizes_run() {
    let mut noise = Noise(11);
    for i in 0..60 {
        let kv_heads = pick(&mut noise, &[1, 2, 3]);
        let experts = pick(&mut noise, &[1, 2, 5, 33]);
        let sizes = Sizes {
            layers: 1,
            hidden: pick(&mut noise, &[4, 12, 20, 64]),
            heads: kv_heads * pick(&mut noise, &[1, 2, 3, 5, 9]),
            kv_heads,
            head_dim: pick(&mut noise, &[4, 12, 20, 256]),
            ff: pick(&mut noise, &[4, 20, 36, 100]),
            experts,
            used: 1 + (noise.word() as usize % experts),
            vocabulary: pick(&mut noise, &[1, 2, 3, 65, 1025]),
            context: pick(&mut noise, &[1, 7, 100]),
        };
        let (architecture, format) = (ARCHITECTURES[i % ARCHITECTURES.len()], [Format::F16, Format::F32][i % 3 % 2]);
        let what = format!("{architecture} {format} {sizes:?}");
        assert!(survives(&Made::new(architecture, format, &sizes), &what), "{what}: refused");
    }
}

#[test]
fn wrong_values_are_refused_or_run() {
    const KEYS: &[&str] = &[
        "block_count",
        "context_length",
        "embedding_length",
        "feed_forward_length",
        "attention.head_count",
        "attention.head_count_kv",
        "attention.key_length",
        "attention.value_length",
        "rope.dimension_count",
        "rope.freq_base",
        "attention.layer_norm_rms_epsilon",
        "expert_count",
        "expert_used_count",
        "expert_feed_forward_length",
        "attention.indexer.head_count",
        "attention.indexer.key_length",
        "attention.indexer.top_k",
        "attention.q_lora_rank",
        "attention.kv_lora_rank",
        "attention.key_length_mla",
        "attention.value_length_mla",
        "interleave_moe_layer_step",
        "leading_dense_block_count",
        "attention.shared_kv_layers",
        "embedding_length_per_layer_input",
        "attention.key_length_swa",
        "final_logit_softcapping",
        "expert_shared_feed_forward_length",
        "attention.sliding_window",
        "expert_group_count",
        "expert_group_used_count",
        "expert_shared_count",
        "nextn_predict_layers",
        "full_attention_interval",
        "ssm.conv_kernel",
        "ssm.state_size",
        "ssm.group_count",
        "ssm.time_step_rank",
        "ssm.inner_size",
        "rope.scaling.type",
        "rope.scaling.factor",
        "rope.scaling.original_context_length",
    ];
    let numbers =
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 31, 33, 64, 256, 257, 1024, 1025, 65_536, 1 << 24, 1 << 31, u64::MAX];
    let floats = [0.0, -0.0, 1.0, 1e-38, 1e38, f32::MIN_POSITIVE / 4.0, -1.0, f32::NAN, f32::INFINITY];
    let mut noise = Noise(5);
    let (mut ran, mut refused) = (0, 0);
    for i in 0..600 {
        let mut made = Made::new(ARCHITECTURES[i % ARCHITECTURES.len()], Format::F16, &Sizes { layers: 1, ..TINY });
        let mut what = made.architecture();
        for _ in 0..1 + i % 3 {
            let key = pick(&mut noise, KEYS);
            let value: Value = match noise.word() >> 61 {
                0 => pick(&mut noise, &floats).into(),
                1 => pick(&mut noise, &["yarn", "linear", "none", ""]).into(),
                2 => (-(pick(&mut noise, &numbers) as i64 & 0xffff)).into(),
                3 => vec![pick(&mut noise, &numbers)].into(),
                _ => pick(&mut noise, &numbers).into(),
            };
            what += &format!(", {key} = {value:?}");
            made.set(key, value);
        }
        *if survives(&made, &what) { &mut ran } else { &mut refused } += 1;
    }
    assert!(ran > 10 && refused > 100, "{ran} ran, {refused} were refused: not much of a test");
}

#[test]
fn wrong_shapes_are_refused() {
    let mut noise = Noise(23);
    for i in 0..300 {
        let mut made = Made::new(ARCHITECTURES[i % ARCHITECTURES.len()], Format::F16, &Sizes { layers: 1, ..TINY });
        let at = (noise.word() >> 33) as usize % made.tensors.len();
        let tensor = &mut made.tensors[at];
        let d = (noise.word() >> 33) as usize % tensor.dims.len();
        match noise.word() >> 62 {
            0 => tensor.dims[d] += 1,
            1 => tensor.dims[d] = tensor.dims[d].div_ceil(2).max(1) + u64::from(tensor.dims[d] == 1),
            2 => tensor.dims.push(2),
            _ => tensor.dims.reverse(),
        }
        let values = tensor.dims.iter().product::<u64>() as usize;
        tensor.bytes.resize(values * if tensor.ggml_type == 0 { 4 } else { 2 }, 0x31);
        let what = format!("{} {} {:?}", ARCHITECTURES[i % ARCHITECTURES.len()], tensor.name, tensor.dims);
        survives(&made, &what);
    }
}

/// Weights of all bits: infinities and NaNs reach the router, the softmax and the sampler.
#[test]
fn weights_of_noise_run() {
    for i in 0..24 {
        let mut made = Made::new(ARCHITECTURES[i % ARCHITECTURES.len()], [Format::F16, Format::F32][i % 2], &TINY);
        let mut noise = Noise(100 + i as u64);
        // By what a delta net decays, what divides the angles of rope, and ids are looked at when they are loaded.
        let checked = |name: &str| ["ssm_a", "rope_freqs.weight", "tid2eid.weight"].iter().any(|n| name.ends_with(n));
        for tensor in made.tensors.iter_mut().filter(|t| !checked(&t.name)) {
            tensor.bytes.chunks_exact_mut(2).for_each(|b| b.copy_from_slice(&(noise.word() as u16).to_le_bytes()));
        }
        let what = format!("noise {i}");
        assert!(survives(&made, &what), "{what}: refused");
    }
}
