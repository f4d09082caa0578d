//! Files of many formats, as dynamic quantisation ships them, say what the same weights in f32 say.

use super::synthetic::{DELTA, EXPERTS, GLM, LATENT, preset};
use super::*;
use halogen::formats::Format::{self, *};
use halogen::gguf::Gguf;
use halogen::presets::{Mixture, Synthetic};
use std::collections::BTreeSet;

/// Formats by the end of a matrix's name: where matrices are joined, those of one input differ.
const FORMATS: &[(&str, Format)] = &[
    ("token_embd.weight", Q4K),
    ("output.weight", Q6K),
    ("attn_q.weight", Q4K),
    ("attn_k.weight", Q5K),
    ("attn_v.weight", Q6K),
    ("attn_qkv.weight", Q4K),
    ("attn_gate.weight", Q5K),
    ("attn_q_a.weight", Q4K),
    ("attn_q_b.weight", Q5_1),
    ("attn_kv_a_mqa.weight", Q8_0),
    ("attn_output.weight", Q4K),
    ("ssm_out.weight", Q6K),
    ("ffn_gate.weight", Q3K),
    ("ffn_up.weight", IQ4XS),
    ("ffn_down.weight", Q6K),
    ("ffn_gate_exps.weight", IQ1S),
    ("ffn_up_exps.weight", IQ1M),
    ("ffn_down_exps.weight", IQ2XXS),
    ("ffn_gate_shexp.weight", Q5K),
    ("ffn_up_shexp.weight", Q4K),
    ("ffn_down_shexp.weight", Q6K),
];

/// A made-up model whose matrices are in their formats, and the same in f32.
fn files(architecture: &str, keys: &str) -> [Made; 2] {
    let preset = preset(architecture, keys);
    let of = |format| Synthetic::new(&preset, Mixture::Pure(format), 3, 5).and_then(Synthetic::gguf).expect("a header");
    let plain = of(F32);
    let mut both = [(); 2].map(|()| Made { metadata: plain.metadata().clone(), tensors: vec![] });
    for t in plain.tensors() {
        let what = t.name.splitn(3, '.').last().filter(|_| t.name.starts_with("blk.")).unwrap_or(&t.name);
        let format = FORMATS.iter().find(|(name, _)| *name == what).map_or(F32, |(_, format)| *format);
        let packed = tensor(&of(format), &t.name);
        let mut values = vec![0f32; t.dims.iter().product::<u64>() as usize];
        Format::from_ggml(packed.ggml_type).expect("a block format").decode(&packed.bytes, &mut values);
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        both[0].tensors.push(packed);
        both[1].tensors.push(Tensor { name: t.name.clone(), dims: t.dims.clone(), ggml_type: F32.ggml(), bytes });
    }
    both
}

fn tensor(gguf: &Gguf, name: &str) -> Tensor {
    let t = gguf.tensors().iter().find(|t| t.name == name).expect("a tensor");
    let mut bytes = vec![0; t.bytes as usize];
    gguf.blocking_read(t, 0, &mut bytes).expect("bytes");
    Tensor { name: name.into(), dims: t.dims.clone(), ggml_type: t.ggml_type, bytes }
}

#[test]
fn a_file_of_many_formats_says_what_its_weights_say_in_f32() {
    let mixture = EXPERTS.to_string();
    let (shared, latent) = (mixture.clone() + GLM, mixture.clone() + GLM + LATENT);
    let delta = mixture.clone() + DELTA;
    for (architecture, keys) in [
        ("llama", ""),
        ("qwen3moe", mixture.as_str()),
        ("glm4moe", &shared),
        ("deepseek2", &latent),
        ("qwen3next", &delta),
    ] {
        let [mixed, plain] = files(architecture, keys);
        let formats: BTreeSet<u32> = mixed.tensors.iter().map(|t| t.ggml_type).collect();
        assert!(formats.len() >= 6, "{architecture}: {} formats", formats.len());
        let sessions = [mixed, plain].map(|made| session(&made.load().expect("a model"), f32_cache()));
        let tokens: Vec<u32> = (1..=40).collect();
        let [found, wanted] = sessions.map(|mut session| session.blocking_logits(&tokens, 39).expect("logits"));
        let error = worst_nmse(&wanted, &found, tokens.len());
        assert!(error <= 1e-6, "{architecture}: NMSE {error:.1e}");
    }
}
