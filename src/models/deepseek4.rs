//! DeepSeek-V4 (Flash, Pro). Four residual streams that hyper-connections mix; attention over a window and over entries
//! that stand for 4 or 128 positions each, of which an indexer picks the best 4s; one row a position that is key and value;
//! sinks; low-rank outputs by groups of heads. Experts by square roots of softplus; in the first layers by the token's id.

use super::blocks::{Ends, Transformer, trunk};
use super::deepseek4_attention::AttentionBlock;
use super::mixture::Mixture;
use super::sigmoid_experts::SharedExperts;
use super::{Architecture, Keys, Result, Rope, Shape};
use crate::gguf::Gguf;
use crate::gpu::View;
use crate::memory::{Compressed, Keeps, KvCache, Weights};
use crate::ops::{
    Activation, Compressor, HashRouter, HyperConnection, IndexChoice, Joining, Matrix, Norm, STREAMS, Scoring,
    SigmoidRouter, Step, Tensor,
};

/// Positions of an entry where an indexer picks among them, and where all are seen.
pub const INDEXED: usize = 4;
const COARSE: usize = 128;
/// The indexer's kernels keep a key in workgroup memory, and the selection of a step in one buffer.
const MAX_INDEX_KEY: usize = 1024;
const MAX_TOP_K: usize = 65_536;

/// What the keys say.
pub struct Sizes {
    /// Of the trunk.
    pub t: Transformer,
    /// Blocks with those after the trunk.
    blocks: usize,
    pub q_rank: usize,
    pub window: usize,
    /// Positions of an entry, of each layer of the trunk.
    pub ratios: Vec<Option<usize>>,
    pub index: IndexChoice,
    /// Groups of heads whose results are projected apart, and columns that each leaves.
    pub groups: usize,
    pub out_rank: usize,
    /// Layers that choose experts by the token's id.
    hashed: usize,
    mixture: Mixture,
    shared_ff: usize,
    renormalise: bool,
    scale: f32,
    iterations: usize,
    mix_eps: f32,
}

impl Sizes {
    fn read(gguf: &Gguf, keys: &Keys) -> Result<Self> {
        let t = Transformer::read(gguf, keys)?;
        let (blocks, layers) = (t.layers, trunk(keys, t.layers)?);
        let t = Transformer { layers, ..t };
        let only = |key: &str, found: usize, known: usize, what: &str| match found == known {
            true => Ok(()),
            false => Err(keys.error(key, found, format!("halogen runs {known} here, {what}"))),
        };
        only("attention.head_count_kv", t.kv_heads, 1, "a row that all heads share")?;
        only("hyper_connection.count", keys.size("hyper_connection.count")?, STREAMS, "residual streams")?;
        only("expert_gating_func", keys.size("expert_gating_func")?, 4, "the square root of softplus")?;
        let flat = STREAMS * t.hidden;
        only("embedding_length_out", keys.size_or("embedding_length_out", flat)?, flat, "the width of all streams")?;
        if !t.rope_dim.is_multiple_of(4) {
            return Err(keys.error("rope.dimension_count", t.rope_dim, "a multiple of 4 is needed"));
        }
        for key in ["attention.compress_ratios", "swiglu_clamp_exp", "swiglu_clamp_shexp"] {
            keys.one_a_layer(key, blocks)?;
        }
        let ratio = |layer| match keys.count_of_layer("attention.compress_ratios", layer)? {
            0 => Ok(None),
            ratio @ (INDEXED | COARSE) => Ok(Some(ratio)),
            other => Err(keys.error("attention.compress_ratios", other, "halogen knows 0, 4 and 128")),
        };
        let groups = keys.size("attention.output_group_count")?;
        if !t.heads.is_multiple_of(groups) {
            let problem = format!("{} heads cannot be in so many groups", t.heads);
            return Err(keys.error("attention.output_group_count", groups, problem));
        }
        let hashed = keys.count_or("hash_layer_count", 0)?;
        if hashed > layers {
            return Err(keys.error("hash_layer_count", hashed, format!("there are {layers} layers")));
        }
        let mixture = Mixture::read(keys)?;
        Ok(Sizes {
            q_rank: keys.width("attention.q_lora_rank")?,
            window: keys.size("attention.sliding_window")?,
            ratios: (0..layers).map(ratio).collect::<Result<_>>()?,
            index: index(keys, t.rope_dim)?,
            groups,
            out_rank: keys.width("attention.output_lora_rank")?,
            hashed,
            shared_ff: keys
                .width_or("expert_shared_feed_forward_length", mixture.ff * keys.size_or("expert_shared_count", 1)?)?,
            renormalise: keys.flag("expert_weights_norm")?.unwrap_or(true),
            scale: keys.positive_or("expert_weights_scale", 1.0)?,
            iterations: keys.size("hyper_connection.sinkhorn_iterations")?,
            mix_eps: keys.positive_or("hyper_connection.epsilon", 1e-6)?,
            mixture,
            blocks,
            t,
        })
    }

    /// What a layer whose entries are of `ratio` positions keeps.
    fn keeps(&self, ratio: Option<usize>) -> Keeps {
        let (row, index) = (self.t.head_dim, self.index.head_dim);
        let indexed = ratio == Some(INDEXED);
        Keeps::Compressed(Compressed {
            row,
            window: self.window,
            ratio,
            index: if indexed { index } else { 0 },
            sums: [
                if ratio.is_some() { Compressor::sums(row, indexed) } else { 0 },
                if indexed { Compressor::sums(index, true) } else { 0 },
            ],
        })
    }

    /// Columns of the joint projection of a layer whose entries are of `ratio` positions.
    fn latents(&self, ratio: Option<usize>) -> usize {
        let (row, index) = (self.t.head_dim, &self.index);
        self.q_rank
            + row
            + match ratio {
                None => 0,
                Some(INDEXED) => {
                    2 * Compressor::width(row, true) + 2 * Compressor::width(index.head_dim, true) + index.heads
                }
                Some(_) => 2 * Compressor::width(row, false),
            }
    }

    fn shape(&self) -> Shape {
        let Sizes { t, index, mixture, .. } = self;
        let latents = self.ratios.iter().map(|ratio| self.latents(*ratio)).max().unwrap_or(0);
        let indexed = self.ratios.contains(&Some(INDEXED));
        // The embedding, the streams with their weights and, at most, sums, what a half reads, its norm, and its result.
        let floats = (STREAMS + 5) * t.hidden;
        // Latents, q and attention's result, the groups' results; the indexer's q and choice.
        let floats = floats + latents + 2 * t.heads * t.head_dim + self.groups * self.out_rank;
        let floats = floats + if indexed { index.heads * index.head_dim + index.top_k } else { 0 };
        let floats = floats + mixture.floats_per_token(t) + self.shared_ff + t.hidden;
        Shape {
            keeps: self.ratios.iter().map(|ratio| self.keeps(*ratio)).collect(),
            together: 0..0,
            rope_pairs: t.rope_dim, // of two tables
            scratch_per_token: 4 * floats as u64,
            ..t.shape(0)
        }
    }
}

/// What keys say of the indexer, whose keys are entries.
fn index(keys: &Keys, rope_dim: usize) -> Result<IndexChoice> {
    let [heads, head_dim, top_k] = ["head_count", "key_length", "top_k"].map(|key| format!("attention.indexer.{key}"));
    let index = IndexChoice {
        heads: keys.size(&heads)?,
        head_dim: keys.width(&head_dim)?,
        top_k: keys.size(&top_k)?,
        ratio: INDEXED,
    };
    if index.head_dim < rope_dim || index.head_dim > MAX_INDEX_KEY {
        let problem = format!("a size from {rope_dim}, of which so many lanes turn, to {MAX_INDEX_KEY} is needed");
        return Err(keys.error(&head_dim, index.head_dim, problem));
    }
    match index.top_k <= MAX_TOP_K {
        true => Ok(index),
        false => Err(keys.error(&top_k, index.top_k, format!("at most {MAX_TOP_K} are supported"))),
    }
}

/// The tables of layers without entries, and of those with entries: a base of its own, and YaRN without its magnitude.
fn ropes(keys: &Keys, dim: usize) -> Result<[Rope; 2]> {
    let plain = Rope::unscaled(f64::from(keys.positive_or("rope.freq_base", 10_000.0)?), dim);
    let base = keys.positive_or("attention.compress_rope_freq_base", 160_000.0)?;
    Ok([plain, Rope { magnitude: 1.0, ..Rope::of_base(keys, base, dim, None)? }])
}

struct DeepSeek4 {
    shape: Shape,
    ropes: [Rope; 2],
    ends: Ends,
    layers: Vec<Layer>,
    head: HyperConnection,
}

struct Layer {
    before_attention: HyperConnection,
    attention: AttentionBlock,
    before_experts: HyperConnection,
    experts: Experts,
}

pub fn shape(gguf: &Gguf, keys: &Keys) -> Result<Shape> {
    Ok(Sizes::read(gguf, keys)?.shape())
}

pub fn load(weights: &mut Weights, keys: &Keys) -> Result<Box<dyn Architecture>> {
    let sizes = Sizes::read(weights.gguf, keys)?;
    let t = &sizes.t;
    let ends = Ends::load(weights, t)?;
    let layers = (0..t.layers)
        .map(|i| {
            Ok(Layer {
                before_attention: hyper_connection(weights, &sizes, &format!("blk.{i}.hc_attn"), false)?,
                attention: AttentionBlock::load(weights, &sizes, i)?,
                before_experts: hyper_connection(weights, &sizes, &format!("blk.{i}.hc_ffn"), false)?,
                experts: Experts::load(weights, keys, &sizes, i)?,
            })
        })
        .collect::<Result<_>>()?;
    let head = hyper_connection(weights, &sizes, "output_hc", true)?;
    (t.layers..sizes.blocks).for_each(|i| weights.skip(&format!("blk.{i}.")));
    Ok(Box::new(DeepSeek4 { shape: sizes.shape(), ropes: ropes(keys, t.rope_dim)?, ends, layers, head }))
}

fn hyper_connection(weights: &mut Weights, sizes: &Sizes, prefix: &str, head: bool) -> Result<HyperConnection> {
    let rows = HyperConnection::rows(head);
    let name = |what: &str| format!("{prefix}_{what}.weight");
    let matrix = weights.host_rows(&name("fn"), rows, STREAMS * sizes.t.hidden)?;
    Ok(HyperConnection {
        matrix: weights.upload(&name("fn"), &matrix)?,
        base: weights.vector(&name("base"), rows)?,
        scale: weights.vector(&name("scale"), if head { 1 } else { 3 })?,
        hidden: sizes.t.hidden,
        head,
        norm_eps: sizes.t.eps,
        eps: sizes.mix_eps,
        iterations: sizes.iterations,
    })
}

impl Architecture for DeepSeek4 {
    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn ropes(&self) -> &[Rope] {
        &self.ropes
    }

    fn forward(&self, step: &mut Step, cache: &KvCache, ropes: &[View]) -> Result<Tensor> {
        let embedding = step.embed(&self.ends.embedding, 1.0)?; // [tokens, hidden]
        let mut branch = None;
        for (i, layer) in self.layers.iter().enumerate() {
            step.enter_layer(i);
            let joining = branch.as_ref().map_or(Joining::Embedding(&embedding), Joining::Branch);
            let x = step.hyper_connection(joining, &layer.before_attention)?; // of the four streams: [tokens, hidden]
            let attended = layer.attention.record(step, &x, cache.compressed(i), ropes)?;
            let x = step.hyper_connection(Joining::Branch(&attended), &layer.before_experts)?;
            branch = Some(layer.experts.record(step, &x)?);
        }
        let joining = branch.as_ref().map_or(Joining::Embedding(&embedding), Joining::Branch);
        Ok(step.hyper_connection(joining, &self.head)?)
    }

    /// The streams, and what is to join them.
    fn hands_on(&self) -> &'static [&'static str] {
        &["streams", "stream mix", "branch"]
    }

    fn head(&self) -> (&Norm, &Matrix) {
        (&self.ends.norm, &self.ends.output)
    }
}

/// The second half of a layer.
struct Experts {
    norm: Norm,
    matrix: Matrix,
    router: Router,
    experts: SharedExperts,
}

enum Router {
    Scored(SigmoidRouter),
    /// By the token's id.
    Hashed(HashRouter),
}

impl Experts {
    fn load(weights: &mut Weights, keys: &Keys, sizes: &Sizes, layer: usize) -> Result<Self> {
        let name = |what: &str| format!("blk.{layer}.{what}");
        let Sizes { t, mixture, renormalise, scale, .. } = sizes;
        let activation =
            |key| Ok(keys.limit_of_layer(key, layer)?.map_or(Activation::Silu, Activation::SiluCapped)) as Result<_>;
        let activations = [activation("swiglu_clamp_exp")?, activation("swiglu_clamp_shexp")?];
        let experts = SharedExperts::load(weights, t, layer, mixture, (sizes.shared_ff, "ffn_norm"), activations)?;
        let (ranks, renormalise, scale, shared) = (mixture.used, *renormalise, *scale, experts.joined());
        let router = match layer < sizes.hashed {
            true => {
                let table = name("ffn_gate_tid2eid.weight");
                let table = weights.ids(&table, t.vocabulary, ranks, mixture.experts)?;
                Router::Hashed(HashRouter { table, ranks, renormalise, scale, shared })
            }
            false => {
                let bias = Some(weights.vector(&name("exp_probs_b.bias"), mixture.experts)?);
                let (scoring, groups) = (Scoring::SqrtSoftplus, (1, 1));
                Router::Scored(SigmoidRouter { bias, scoring, ranks, renormalise, scale, groups, shared })
            }
        };
        Ok(Experts {
            norm: t.norm(weights, &name("ffn_norm.weight"), t.hidden)?,
            matrix: weights.matrix(&name("ffn_gate_inp.weight"), mixture.experts, t.hidden)?,
            router,
            experts,
        })
    }

    /// shared(norm(x)) + sum over the chosen experts of weight * mlp(norm(x)): x and the result [tokens, hidden]
    fn record(&self, step: &mut Step, x: &Tensor) -> Result<Tensor> {
        let logits = step.norm_linear("router logits", x, &self.norm, &self.matrix)?; // [tokens, experts]
        let routing = match &self.router {
            Router::Scored(router) => step.route_sigmoid(&logits, router)?,
            Router::Hashed(router) => step.route_hashed(&logits, router)?,
        };
        self.experts.project(step, "branch", x, &self.norm, &routing)
    }
}
