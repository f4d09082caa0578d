//! Gemma 4: layers with a window between layers that see all, of another head size, rope and number of KV heads; values
//! normalised, and equal to the keys where the file has none; scores unscaled; logits capped. Its mixtures stand beside a
//! dense MLP, each with norms of its own. Its small models bring an embedding of each token into every layer, and their last
//! layers read the keys and values of earlier ones.

use super::blocks::{Ends, GatedMlp, Transformer};
use super::gemma4_attention::Gemma4Attention;
use super::mixture::Mixture;
use super::{Architecture, Keys, Result, Rope, Shape};
use crate::gguf::Gguf;
use crate::gpu::View;
use crate::memory::{Keeps, KvCache, KvWidth, Weights};
use crate::ops::{Activation, ExpertMlp, ExpertRouter, Matrix, Norm, Step, Tensor};
use std::ops::Range;

struct Gemma4 {
    shape: Shape,
    /// Of the layers that see all, and of those with a window.
    ropes: [Rope; 2],
    ends: Ends,
    layers: Vec<Layer>,
    per_layer: Option<PerLayerInputs>,
    cap: Option<f32>,
}

struct Layer {
    windowed: bool,
    /// The layer whose keys and values it reads: itself, or an earlier one.
    source: usize,
    attention: Gemma4Attention,
    mlp: GatedMlp,
    experts: Option<Experts>,
    /// Of what the feed-forward adds to the stream.
    post_norm: Norm,
    input: Option<LayerInput>,
    /// Of the stream, at the layer's end.
    scale: f32,
}

/// A mixture beside the dense MLP.
struct Experts {
    /// 1 / sqrt(hidden) within.
    router_norm: Norm,
    matrix: Matrix,
    router: ExpertRouter,
    norm: Norm,
    mlp: ExpertMlp,
    /// Of the dense branch and of the experts'.
    post_norms: [Norm; 2],
}

/// Embeddings of tokens for each layer, and what the scaled embedding adds to them.
struct PerLayerInputs {
    table: Matrix,
    projection: Matrix,
    norm: Norm,
    /// Of one layer.
    columns: usize,
}

/// What a layer makes of its input.
struct LayerInput {
    gate: Matrix,
    projection: Matrix,
    norm: Norm,
}

/// What the keys say beside the usual.
struct Sizes {
    /// Of each layer.
    t: Vec<Transformer>,
    windowed: Vec<bool>,
    /// Positions; 0 without a layer that has one.
    window: usize,
    source: Vec<usize>,
    ff: Vec<usize>,
    mixture: Option<Mixture>,
    /// Columns of a layer's input; 0: there is none.
    input: usize,
}

impl Sizes {
    fn read(gguf: &Gguf, keys: &Keys) -> Result<Self> {
        let layers = keys.size("block_count")?;
        let pattern = "attention.sliding_window_pattern";
        for key in ["attention.head_count", "attention.head_count_kv", "feed_forward_length", pattern] {
            keys.one_a_layer(key, layers)?;
        }
        let windowed: Vec<bool> =
            (0..layers).map(|i| Ok(keys.flag_of_layer(pattern, i)?.unwrap_or(false))).collect::<Result<_>>()?;
        let window = if windowed.contains(&true) { keys.size("attention.sliding_window")? } else { 0 };
        let kind = |i: usize| if windowed[i] { "_swa" } else { "" };
        Ok(Sizes {
            t: (0..layers).map(|i| Transformer::read_layer(gguf, keys, i, kind(i))).collect::<Result<_>>()?,
            source: sources(keys, &windowed)?,
            windowed,
            window,
            ff: (0..layers).map(|i| keys.width_of_layer("feed_forward_length", i)).collect::<Result<_>>()?,
            mixture: if keys.count_or("expert_count", 0)? > 0 { Some(Mixture::read(keys)?) } else { None },
            input: match keys.count_or("embedding_length_per_layer_input", 0)? {
                0 => 0,
                _ => keys.width("embedding_length_per_layer_input")?,
            },
        })
    }

    /// Keys and values of a layer, if they are its own.
    fn width(&self, t: &Transformer, layer: usize) -> KvWidth {
        if self.source[layer] == layer { KvWidth::both(t.kv_heads, t.head_dim) } else { KvWidth::default() }
    }

    /// From the first layer whose keys others read to the last of those.
    fn together(&self) -> Range<usize> {
        let sharing = || self.source.iter().enumerate().filter(|(i, source)| i != *source);
        sharing().map(|(_, source)| *source).min().map_or(0..0, |first| first..self.source.len())
    }

    fn shape(&self) -> Shape {
        let size = |t: &Transformer| (t.heads + t.kv_heads) * t.head_dim;
        let widest = self.t.iter().max_by_key(|t| size(t)).expect("a layer");
        let mixture = self.mixture.as_ref().map_or(0, |m| m.floats_per_token(widest) + widest.hidden);
        let ff = self.ff.iter().max().expect("a layer");
        let inputs = 2 * self.input * self.t.len() + self.input;
        // A branch's result before its norm.
        let shape = widest.shape(ff + widest.hidden + mixture + inputs);
        let of_kind = |windowed| self.windowed.iter().position(|w| *w == windowed).map_or(0, |i| self.t[i].rope_dim);
        let shape = Shape {
            keeps: self.t.iter().zip(0..).map(|(t, i)| Keeps::Kv(self.width(t, i))).collect(),
            together: self.together(),
            rope_pairs: (of_kind(false) + of_kind(true)) / 2,
            ..shape
        };
        shape.with_windows(self.window, |i| self.windowed[i])
    }
}

/// The layer whose keys and values each layer reads: the last few share those of the last before them of their kind.
fn sources(keys: &Keys, windowed: &[bool]) -> Result<Vec<usize>> {
    let (key, layers) = ("attention.shared_kv_layers", windowed.len());
    let shared = keys.count_or(key, 0)?;
    let own = layers.checked_sub(shared).filter(|own| *own > 0);
    let own = own.ok_or_else(|| keys.error(key, shared, format!("there are {layers} layers")))?;
    let source = |i: usize| {
        let found = if i < own { Some(i) } else { (0..own).rev().find(|o| windowed[*o] == windowed[i]) };
        found.ok_or_else(|| keys.error(key, shared, format!("no layer before the last of them is of layer {i}'s kind")))
    };
    (0..layers).map(source).collect()
}

pub fn shape(gguf: &Gguf, keys: &Keys) -> Result<Shape> {
    Ok(Sizes::read(gguf, keys)?.shape())
}

pub fn load(weights: &mut Weights, keys: &Keys) -> Result<Box<dyn Architecture>> {
    let sizes = Sizes::read(weights.gguf, keys)?;
    // Of a kind without a layer the file may say nothing.
    let dim_of = |windowed, key| match sizes.windowed.iter().position(|w| *w == windowed) {
        Some(i) => Ok(sizes.t[i].rope_dim),
        None => keys.width_or(key, 2),
    };
    let (full, local) = (dim_of(false, "rope.dimension_count")?, dim_of(true, "rope.dimension_count_swa")?);
    // Pairs that do not turn have a factor beyond all positions.
    let factors = match weights.has("rope_freqs.weight") {
        true => Some(weights.host_vector("rope_freqs.weight", full / 2)?),
        false => None,
    };
    let base = f64::from(keys.positive_or("rope.freq_base_swa", 10_000.0)?);
    let ropes = [Rope::new(keys, full, factors.as_deref())?, Rope::unscaled(base, local)];
    let ends = Ends::load(weights, &sizes.t[0])?;
    let per_layer = match sizes.input {
        0 => None,
        columns => Some(PerLayerInputs::load(weights, &sizes.t[0], columns)?),
    };
    let layers = (0..sizes.t.len()).map(|i| Layer::load(weights, &sizes, i)).collect::<Result<_>>()?;
    let cap = keys.positive("final_logit_softcapping")?;
    Ok(Box::new(Gemma4 { shape: sizes.shape(), ropes, ends, layers, per_layer, cap }))
}

impl PerLayerInputs {
    fn load(weights: &mut Weights, t: &Transformer, columns: usize) -> Result<Self> {
        let all = t.layers * columns;
        let norm = weights.host_vector("per_layer_proj_norm.weight", columns)?;
        let norm: Vec<f32> = norm.iter().map(|w| w * std::f32::consts::FRAC_1_SQRT_2).collect();
        Ok(PerLayerInputs {
            table: weights.matrix("per_layer_token_embd.weight", t.vocabulary, all)?,
            projection: weights.matrix("per_layer_model_proj.weight", all, t.hidden)?,
            // Of the projection over sqrt(hidden): the norm takes a factor out again, but for its epsilon.
            norm: Norm { weight: weights.upload("per-layer norm", &norm)?, columns, eps: t.eps * t.hidden as f32 },
            columns,
        })
    }

    /// (norm(projection x / sqrt(hidden)) + sqrt(columns) * table[token]) / sqrt(2): [tokens, layers * columns].
    fn record(&self, step: &mut Step, x: &Tensor) -> Result<Tensor> {
        let scale = (self.columns as f32 / 2.0).sqrt();
        let inputs = step.embed_into("per-layer inputs", &self.table, scale)?;
        let projected = step.project("per-layer projection", x, &self.projection)?;
        step.add_norm(&inputs.in_rows_of(self.columns), &projected.in_rows_of(self.columns), &self.norm)?;
        Ok(inputs)
    }
}

impl LayerInput {
    fn load(weights: &mut Weights, t: &Transformer, layer: usize, columns: usize) -> Result<Self> {
        let name = |what: &str| format!("blk.{layer}.{what}.weight");
        Ok(LayerInput {
            gate: weights.matrix(&name("inp_gate"), columns, t.hidden)?,
            projection: weights.matrix(&name("proj"), t.hidden, columns)?,
            norm: t.norm(weights, &name("post_norm"), t.hidden)?,
        })
    }
}

impl Experts {
    fn load(weights: &mut Weights, t: &Transformer, layer: usize, mixture: &Mixture) -> Result<Self> {
        let name = |what: &str| format!("blk.{layer}.{what}");
        let scale = weights.host_vector(&name("ffn_gate_inp.scale"), t.hidden)?;
        let scale: Vec<f32> = scale.iter().map(|s| s / (t.hidden as f32).sqrt()).collect();
        let post_norm = |weights: &mut Weights, what: &str| t.norm(weights, &name(what), t.hidden);
        Ok(Experts {
            router_norm: Norm { weight: weights.upload("router norm", &scale)?, columns: t.hidden, eps: t.eps },
            matrix: weights.matrix(&name("ffn_gate_inp.weight"), mixture.experts, t.hidden)?,
            router: ExpertRouter {
                ranks: mixture.used,
                scales: weights.vector(&name("ffn_down_exps.scale"), mixture.experts)?,
            },
            norm: t.norm(weights, &name("pre_ffw_norm_2.weight"), t.hidden)?,
            mlp: ExpertMlp { activation: Activation::GeluTanh, ..mixture.mlp(weights, t, layer)? },
            post_norms: [post_norm(weights, "post_ffw_norm_1.weight")?, post_norm(weights, "post_ffw_norm_2.weight")?],
        })
    }

    /// norm(dense) + norm(experts(norm(x))), dense [tokens, hidden] as x.
    fn record(&self, step: &mut Step, x: &Tensor, dense: &Tensor) -> Result<Tensor> {
        let logits = step.norm_linear("router logits", x, &self.router_norm, &self.matrix)?; // [tokens, experts]
        let routing = step.route_scaled(&logits, &self.router)?;
        let mixed = step.project_experts("mixed", x, &self.norm, &routing, &self.mlp)?;
        let sum = step.rms_norm(dense, &self.post_norms[0])?;
        step.add_norm(&sum, &mixed, &self.post_norms[1])?;
        Ok(sum)
    }
}

impl Layer {
    fn load(weights: &mut Weights, sizes: &Sizes, i: usize) -> Result<Self> {
        let (t, source, windowed) = (&sizes.t[i], sizes.source[i], sizes.windowed[i]);
        let window = windowed.then_some(sizes.window);
        let mut mlp = GatedMlp::load(weights, t, i, sizes.ff[i])?;
        mlp.activation = Activation::GeluTanh;
        let scale = format!("blk.{i}.layer_output_scale.weight");
        Ok(Layer {
            windowed,
            source,
            attention: Gemma4Attention::load(weights, t, i, source == i, window)?,
            mlp,
            experts: match &sizes.mixture {
                Some(mixture) => Some(Experts::load(weights, t, i, mixture)?),
                None => None,
            },
            post_norm: t.norm(weights, &format!("blk.{i}.post_ffw_norm.weight"), t.hidden)?,
            input: match sizes.input {
                0 => None,
                columns => Some(LayerInput::load(weights, t, i, columns)?),
            },
            scale: if weights.has(&scale) { weights.scalar(&scale)? } else { 1.0 },
        })
    }

    /// What follows attention.   x: [tokens, hidden], updated in place; `input`: the layer's columns of the inputs, from `at`
    fn feed_forward(&self, step: &mut Step, x: &Tensor, input: Option<(&Tensor, usize)>) -> Result<()> {
        let h = self.mlp.inner(step, x)?;
        let dense = self.mlp.outer(step, &h)?;
        let branch = match &self.experts {
            Some(experts) => experts.record(step, x, &dense)?,
            None => dense,
        };
        let (Some(layer), Some((input, at))) = (&self.input, input) else {
            return Ok(step.add_norm_scaled(x, &branch, &self.post_norm, self.scale)?);
        };
        step.add_norm(x, &branch, &self.post_norm)?;
        let gated = step.project("layer input", x, &layer.gate)?;
        step.glu(&gated, input, at, Activation::GeluTanh)?;
        let branch = step.project("branch", &gated, &layer.projection)?;
        Ok(step.add_norm_scaled(x, &branch, &layer.norm, self.scale)?)
    }
}

impl Architecture for Gemma4 {
    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn ropes(&self) -> &[Rope] {
        &self.ropes
    }

    fn forward(&self, step: &mut Step, cache: &KvCache, ropes: &[View]) -> Result<Tensor> {
        let x = step.embed(&self.ends.embedding, (self.shape.hidden as f32).sqrt())?; // [tokens, hidden]
        let inputs = match &self.per_layer {
            Some(per_layer) => Some((per_layer.record(step, &x)?, per_layer.columns)),
            None => None,
        };
        for (i, layer) in self.layers.iter().enumerate() {
            step.enter_layer(i);
            let rope = &ropes[usize::from(layer.windowed)];
            layer.attention.record(step, &x, cache.kv(layer.source), rope)?; // norm, q k v, norms, rope, attention, output, norm
            let input = inputs.as_ref().map(|(inputs, columns)| (inputs, i * columns));
            layer.feed_forward(step, &x, input)?; // norm, gate and up, GELU, down, (experts,) norm, (input,) scale
        }
        Ok(x)
    }

    fn hands_on(&self) -> &'static [&'static str] {
        &["x", "per-layer inputs"]
    }

    fn head(&self) -> (&Norm, &Matrix) {
        (&self.ends.norm, &self.ends.output)
    }

    fn logit_cap(&self) -> Option<f32> {
        self.cap
    }
}
