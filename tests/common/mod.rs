//! What several tests share: a device, and small models made up in memory.

// Each test binary uses a part.
#![allow(dead_code)]

mod architectures;

use halogen::formats::Format;
use halogen::gguf::{Gguf, Metadata, Strings, Value, Writer};
use halogen::gpu::{Gpu, Selector};
use halogen::session::{Generation, Model, Result, Sampling, Session, Token};
use std::sync::{Arc, OnceLock};

/// The device of all tests of a binary.
pub fn gpu() -> &'static Gpu {
    static GPU: OnceLock<Gpu> = OnceLock::new();
    GPU.get_or_init(own_gpu)
}

/// A device that no other test touches.
pub fn own_gpu() -> Gpu {
    pollster::block_on(Gpu::new(Selector::Best)).expect("an adapter")
}

pub fn load(gpu: &Gpu, gguf: &Gguf) -> Result<Arc<Model>> {
    pollster::block_on(Model::load(gpu, gguf, |_| true))
}

/// The model that the program embeds.
pub fn demo() -> Arc<Model> {
    static MODEL: OnceLock<Arc<Model>> = OnceLock::new();
    let load = || {
        let bytes = include_bytes!("../../assets/rust-docs-moe-q4_k_m.gguf");
        load(gpu(), &Gguf::from_static("demo", bytes).expect("the embedded model")).expect("it loads")
    };
    MODEL.get_or_init(load).clone()
}

/// The sizes of a made-up model.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    pub layers: usize,
    pub hidden: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub ff: usize,
    /// Of qwen3moe.
    pub experts: usize,
    pub used: usize,
    pub vocabulary: usize,
    pub context: usize,
}

pub const TINY: Sizes = Sizes {
    layers: 2,
    hidden: 32,
    heads: 4,
    kv_heads: 2,
    head_dim: 8,
    ff: 48,
    experts: 6,
    used: 2,
    vocabulary: 96,
    context: 128,
};

/// Architectures whose layers are delta nets, here every other one.
pub const HYBRIDS: [&str; 3] = ["qwen3next", "qwen35", "qwen35moe"];
/// The sizes of made-up latent attention.
struct Latent {
    q_rank: usize,
    rank: usize,
    rope_dim: usize,
    nope: usize,
    value_dim: usize,
}

const LATENT: Latent = Latent { q_rank: 20, rank: 16, rope_dim: 8, nope: 12, value_dim: 12 };

/// Of a made-up lightning indexer.
const INDEX_HEADS: usize = 4;
const INDEX_DIM: usize = 12;

/// A tensor of a made-up file. Dimensions have the columns first.
#[derive(Clone)]
pub struct Tensor {
    pub name: String,
    pub dims: Vec<u64>,
    pub ggml_type: u32,
    pub bytes: Vec<u8>,
}

/// A made-up GGUF file, to be changed before it is written.
#[derive(Clone)]
pub struct Made {
    pub metadata: Metadata,
    pub tensors: Vec<Tensor>,
}

/// Numbers without pattern (xorshift64*), from -1 to 1.
pub struct Noise(pub u64);

impl Noise {
    pub fn word(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn value(&mut self) -> f32 {
        (self.word() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}

/// A block of q8_0.
fn q8_0(values: &[f32]) -> impl Iterator<Item = u8> {
    let scale = half::f16::from_f32(values.iter().fold(0f32, |high, v| high.max(v.abs())) / 127.0);
    let inverse = 1.0 / scale.to_f32().max(f32::MIN_POSITIVE);
    let quants: Vec<u8> = values.iter().map(|v| (v * inverse).round().clamp(-127.0, 127.0) as i8 as u8).collect();
    scale.to_le_bytes().into_iter().chain(quants)
}

/// `values` as F32, F16 or Q8_0 bytes.
fn encode(format: Format, values: impl Iterator<Item = f32>) -> Vec<u8> {
    match format {
        Format::F32 => values.flat_map(f32::to_le_bytes).collect(),
        Format::F16 => values.flat_map(|v| half::f16::from_f32(v).to_le_bytes()).collect(),
        Format::Q8_0 => values.collect::<Vec<f32>>().chunks(32).flat_map(q8_0).collect(),
        other => panic!("{other} is not made here"),
    }
}

impl Made {
    /// llama, llama4, qwen2, qwen3, qwen3moe, glm4moe, deepseek2, deepseek4, glm-dsa or one of [`HYBRIDS`] with weights in `format`.
    pub fn new(architecture: &str, format: Format, s: &Sizes) -> Made {
        let mut made = Made { metadata: Metadata::new(), tensors: Vec::new() };
        made.metadata.insert("general.architecture", architecture.into());
        for (key, value) in [
            ("block_count", s.layers),
            ("context_length", s.context),
            ("embedding_length", s.hidden),
            ("feed_forward_length", s.ff),
            ("attention.head_count", s.heads),
            ("attention.head_count_kv", s.kv_heads),
            ("attention.key_length", s.head_dim),
            ("attention.value_length", s.head_dim),
            ("rope.dimension_count", s.head_dim),
        ] {
            made.set(key, (value as u32).into());
        }
        made.set("rope.freq_base", 10_000f32.into());
        made.set("attention.layer_norm_rms_epsilon", 1e-6f32.into());
        let moe = ["qwen3moe", "glm4moe", "deepseek2", "glm-dsa"].contains(&architecture);
        let indexed = architecture == "glm-dsa";
        let latent = indexed || architecture == "deepseek2";
        let shared = moe && architecture != "qwen3moe";
        let ffn_norm = if architecture == "glm4moe" || HYBRIDS.contains(&architecture) {
            "post_attention_norm.weight"
        } else {
            "ffn_norm.weight"
        };
        if moe {
            made.set("expert_count", (s.experts as u32).into());
            made.set("expert_used_count", (s.used as u32).into());
            made.set("expert_feed_forward_length", (s.ff as u32).into());
        }
        if latent {
            let Latent { q_rank, rank, rope_dim, nope, value_dim } = LATENT;
            let grouped = s.experts.is_multiple_of(2) && s.used <= s.experts / 2;
            let (groups, groups_used) = if grouped { (s.experts / 2, s.used) } else { (1, 1) };
            for (key, value) in [
                ("attention.key_length", rank + rope_dim),
                ("attention.value_length", rank),
                ("attention.key_length_mla", nope + rope_dim),
                ("attention.value_length_mla", value_dim),
                ("attention.q_lora_rank", q_rank),
                ("attention.kv_lora_rank", rank),
                ("rope.dimension_count", rope_dim),
                ("expert_group_count", groups),
                ("expert_group_used_count", groups_used),
            ] {
                made.set(key, (value as u32).into());
            }
        }
        if indexed {
            for (key, value) in [("head_count", INDEX_HEADS), ("key_length", INDEX_DIM), ("top_k", 5)] {
                made.set(&format!("attention.indexer.{key}"), (value as u32).into());
            }
        }
        made.vocabulary(s.vocabulary);

        let (q, kv) = (s.heads * s.head_dim, s.kv_heads * s.head_dim);
        // Larger than trained ones, so that a few layers already make logits far apart.
        made.matrix("token_embd.weight", &[s.hidden, s.vocabulary], format, 1.0);
        made.matrix("output.weight", &[s.hidden, s.vocabulary], format, 4.0 / (s.hidden as f32).sqrt());
        made.vector("output_norm.weight", s.hidden, 1.0);
        for layer in 0..s.layers {
            let name = |what: &str| format!("blk.{layer}.{what}");
            let mut dense = |what: &str, dims: &[usize]| {
                made.matrix(&name(what), dims, format, 2.0 / (dims[0] as f32).sqrt());
            };
            if latent {
                dense("attn_q_a.weight", &[s.hidden, LATENT.q_rank]);
                dense("attn_q_b.weight", &[LATENT.q_rank, s.heads * (LATENT.nope + LATENT.rope_dim)]);
                dense("attn_kv_a_mqa.weight", &[s.hidden, LATENT.rank + LATENT.rope_dim]);
                dense("attn_k_b.weight", &[LATENT.nope, LATENT.rank, s.heads]);
                dense("attn_v_b.weight", &[LATENT.rank, LATENT.value_dim, s.heads]);
                dense("attn_output.weight", &[s.heads * LATENT.value_dim, s.hidden]);
            } else {
                dense("attn_q.weight", &[s.hidden, q]);
                dense("attn_k.weight", &[s.hidden, kv]);
                dense("attn_v.weight", &[s.hidden, kv]);
                dense("attn_output.weight", &[q, s.hidden]);
            }
            if indexed {
                dense("indexer.attn_q_b.weight", &[LATENT.q_rank, INDEX_HEADS * INDEX_DIM]);
                dense("indexer.attn_k.weight", &[s.hidden, INDEX_DIM]);
                dense("indexer.proj.weight", &[s.hidden, INDEX_HEADS]);
            }
            if moe {
                dense("ffn_gate_inp.weight", &[s.hidden, s.experts]);
                dense("ffn_gate_exps.weight", &[s.hidden, s.ff, s.experts]);
                dense("ffn_up_exps.weight", &[s.hidden, s.ff, s.experts]);
                dense("ffn_down_exps.weight", &[s.ff, s.hidden, s.experts]);
                if shared {
                    dense("ffn_gate_shexp.weight", &[s.hidden, s.ff]);
                    dense("ffn_up_shexp.weight", &[s.hidden, s.ff]);
                    dense("ffn_down_shexp.weight", &[s.ff, s.hidden]);
                }
            } else {
                dense("ffn_gate.weight", &[s.hidden, s.ff]);
                dense("ffn_up.weight", &[s.hidden, s.ff]);
                dense("ffn_down.weight", &[s.ff, s.hidden]);
            }
            made.vector(&name("attn_norm.weight"), s.hidden, 1.0);
            made.vector(&name(ffn_norm), s.hidden, 1.0);
            if shared {
                made.vector(&name("exp_probs_b.bias"), s.experts, 0.0);
            }
            if indexed {
                made.vector(&name("indexer.k_norm.weight"), INDEX_DIM, 1.0);
                made.vector(&name("indexer.k_norm.bias"), INDEX_DIM, 0.0);
            }
            if latent {
                made.vector(&name("attn_q_a_norm.weight"), LATENT.q_rank, 1.0);
                made.vector(&name("attn_kv_a_norm.weight"), LATENT.rank, 1.0);
            }
            if architecture.starts_with("qwen3") {
                made.vector(&name("attn_q_norm.weight"), s.head_dim, 1.0);
                made.vector(&name("attn_k_norm.weight"), s.head_dim, 1.0);
            }
            if architecture == "qwen2" {
                made.vector(&name("attn_q.bias"), q, 0.0);
                made.vector(&name("attn_k.bias"), kv, 0.0);
                made.vector(&name("attn_v.bias"), kv, 0.0);
            }
        }
        made.specialise(format, s);
        made
    }

    pub fn architecture(&self) -> String {
        self.metadata.require_str("general.architecture").expect("an architecture").to_string()
    }

    /// Sets a key under the architecture's name.
    pub fn set(&mut self, key: &str, value: Value) {
        let key = format!("{}.{key}", self.architecture());
        self.metadata.insert(key, value);
    }

    /// A SentencePiece vocabulary of `count` tokens of which none is part of another.
    pub fn vocabulary(&mut self, count: usize) {
        let tokens = Strings::from_iter((0..count).map(|i| format!("<{i}>")));
        self.metadata.insert("tokenizer.ggml.model", "llama".into());
        self.metadata.insert("tokenizer.ggml.tokens", tokens.into());
        self.metadata.insert("tokenizer.ggml.scores", vec![0f32; count].into());
        self.metadata.insert("tokenizer.ggml.eos_token_id", 0u32.into());
    }

    /// Puts a tensor in, in place of the one of its name if there is one.
    pub fn put(&mut self, tensor: Tensor) {
        match self.tensors.iter_mut().find(|t| t.name == tensor.name) {
            Some(old) => *old = tensor,
            None => self.tensors.push(tensor),
        }
    }

    /// Noise of the given amplitude; the same for the same name.
    pub fn matrix(&mut self, name: &str, dims: &[usize], format: Format, amplitude: f32) {
        let seed =
            name.bytes().fold(0x9e37_79b9_7f4a_7c15, |h: u64, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
        let mut noise = Noise(seed);
        let bytes = encode(format, (0..dims.iter().product()).map(|_| noise.value() * amplitude));
        let dims = dims.iter().map(|d| *d as u64).collect();
        self.put(Tensor { name: name.into(), dims, ggml_type: format.ggml(), bytes });
    }

    /// `around`, give or take a tenth.
    fn vector(&mut self, name: &str, len: usize, around: f32) {
        let mut noise = Noise(name.len() as u64 * 7919 + len as u64);
        let bytes = encode(Format::F32, (0..len).map(|_| around + 0.1 * noise.value()));
        self.put(Tensor { name: name.into(), dims: vec![len as u64], ggml_type: 0, bytes });
    }

    pub fn remove(&mut self, name: &str) {
        self.tensors.retain(|t| t.name != name);
    }

    pub fn gguf(&self) -> Gguf {
        Gguf::from_bytes("made.gguf", self.bytes()).expect("a GGUF file")
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut writer = Writer::new(&self.metadata).expect("an alignment");
        for t in &self.tensors {
            writer.tensor(&t.name, &t.dims, t.ggml_type, &t.bytes).expect("a tensor");
        }
        let mut file = Vec::new();
        writer.write(&mut file).expect("memory");
        file
    }

    pub fn load(&self) -> Result<Arc<Model>> {
        load(gpu(), &self.gguf())
    }
}

/// All tokens of a generation.
pub fn collect(generation: &mut Generation) -> Vec<Token> {
    let mut tokens = Vec::new();
    while let Some(token) = generation.blocking_next().expect("a token") {
        tokens.push(token);
    }
    tokens
}

/// The ids of an answer.
pub fn answer(session: &mut Session, prompt: &[u32], sampling: &Sampling, limit: usize) -> Vec<u32> {
    let mut generation = session.generate(prompt, sampling, &[], limit).expect("a generation");
    collect(&mut generation).iter().map(|t| t.id).collect()
}

/// Sum of (x - y)^2 over the sum of (x - mean x)^2, of the worst of `rows` rows.
pub fn worst_nmse(expected: &[f32], found: &[f32], rows: usize) -> f64 {
    assert_eq!(expected.len(), found.len());
    let row = expected.len() / rows;
    let nmse = |(x, y): (&[f32], &[f32])| {
        let mean = x.iter().map(|v| f64::from(*v)).sum::<f64>() / x.len() as f64;
        let error: f64 = x.iter().zip(y).map(|(a, b)| f64::from(a - b).powi(2)).sum();
        error / x.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>()
    };
    // A NaN is the worst.
    let worse = |a: f64, b: f64| if b.is_nan() || b > a { b } else { a };
    expected.chunks_exact(row).zip(found.chunks_exact(row)).map(nmse).fold(0.0, worse)
}
