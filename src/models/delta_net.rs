//! Gated delta nets with gated attention in every so many layers (Qwen3-Next and after): the recurrent layer (Gated
//! DeltaNet, arXiv 2412.06464) and the stack of both.

use super::blocks::{Ends, Transformer, trunk};
use super::decoder::FeedForward;
use super::gated_attention::GatedAttention;
use super::{Architecture, Error, Keys, Result, Rope, Shape};
use crate::gguf::Gguf;
use crate::gpu::View;
use crate::memory::{Keeps, KvCache, KvWidth, Take, Weights};
use crate::ops::{DeltaHeads, DeltaNet, Joint, KeySharing, Matrix, Norm, RecurrentLayer, Step, Tensor};

/// What the keys say of such a model.
pub struct Sizes {
    /// Of the trunk.
    pub t: Transformer,
    pub heads: DeltaHeads,
    /// Blocks with those after the trunk.
    blocks: usize,
    /// Whether a layer of the trunk is a delta net.
    recurrent: Vec<bool>,
}

impl Sizes {
    pub fn read(gguf: &Gguf, keys: &Keys, sharing: KeySharing) -> Result<Self> {
        let t = Transformer::read(gguf, keys)?;
        let (blocks, layers) = (t.layers, trunk(keys, t.layers)?);
        let every = keys.size_or("full_attention_interval", 4)?;
        let mut recurrent = match keys.flags("attention.recurrent_layers", blocks)? {
            Some(flags) => flags,
            None => (1..=blocks).map(|i| !i.is_multiple_of(every)).collect(),
        };
        recurrent.truncate(layers);
        let t = Transformer { layers, ..t };
        Ok(Sizes { t, heads: delta_heads(keys, sharing)?, blocks, recurrent })
    }

    /// The model's sizes; `ff` are the floats of the feed-forward that live at once for each token.
    pub fn shape(&self, ff: usize) -> Shape {
        let (t, h) = (&self.t, &self.heads);
        let [conv, delta] = h.state();
        let attention = Keeps::Kv(KvWidth::both(t.kv_heads, t.head_dim));
        // x and its norm; of delta nets the projection, the convolution's output, the rule's and its chunks.
        let floats = 2 * t.hidden + 2 * h.channels() + 2 * h.inner() + (2 + DeltaHeads::CHUNK_FLOATS) * h.value_heads;
        let floats = floats + GatedAttention::floats_per_token(t) + ff;
        Shape {
            keeps: self
                .recurrent
                .iter()
                .map(|r| if *r { Keeps::Recurrent { conv, delta } } else { attention })
                .collect(),
            scratch_per_token: 4 * floats as u64,
            ..t.shape(0)
        }
    }
}

fn delta_heads(keys: &Keys, sharing: KeySharing) -> Result<DeltaHeads> {
    let dim = |key: &str, dim: usize, value: usize| match dim.is_multiple_of(4) && dim <= DeltaHeads::MAX_DIM {
        true => Ok(dim),
        false => {
            let problem = format!("heads of {dim}: a multiple of 4 up to {} is supported", DeltaHeads::MAX_DIM);
            Err(keys.error(key, value, problem))
        }
    };
    let (key_dim, inner) = (keys.size("ssm.state_size")?, keys.size("ssm.inner_size")?);
    let (key_heads, value_heads) = (keys.size("ssm.group_count")?, keys.size("ssm.time_step_rank")?);
    if !value_heads.is_multiple_of(key_heads) {
        return Err(keys.error("ssm.group_count", key_heads, format!("{value_heads} value heads cannot share them")));
    }
    if !inner.is_multiple_of(value_heads) {
        return Err(keys.error("ssm.inner_size", inner, format!("{value_heads} value heads cannot share it")));
    }
    let taps = keys.size("ssm.conv_kernel")?;
    if taps > DeltaHeads::MAX_TAPS {
        return Err(keys.error("ssm.conv_kernel", taps, format!("at most {} are supported", DeltaHeads::MAX_TAPS)));
    }
    let (key_dim, value_dim) =
        (dim("ssm.state_size", key_dim, key_dim)?, dim("ssm.inner_size", inner / value_heads, inner)?);
    Ok(DeltaHeads { key_heads, value_heads, key_dim, value_dim, taps, sharing })
}

/// A layer that keeps a state in place of keys and values.
pub struct DeltaNetLayer {
    norm: Norm,
    projection: Joint,
    net: DeltaNet,
    output: Matrix,
}

impl DeltaNetLayer {
    /// `beta_alpha` are the rows that say how much each value head writes, and how much it forgets.
    pub fn load(weights: &mut Weights, keys: &Keys, s: &Sizes, layer: usize, beta_alpha: [Take; 2]) -> Result<Self> {
        let name = |what: &str| format!("blk.{layer}.{what}");
        let Sizes { t, heads, .. } = s;
        let (qkv, z) = (name("attn_qkv.weight"), name("attn_gate.weight"));
        let [beta, alpha] = beta_alpha;
        let takes = [Take::all(&qkv, heads.channels()), Take::all(&z, heads.inner()), beta, alpha];
        let (projection, at) = weights.joint_of(&takes, &[], t.hidden)?;
        Ok(DeltaNetLayer {
            norm: t.norm(weights, &name("attn_norm.weight"), t.hidden)?,
            projection,
            net: DeltaNet {
                heads: *heads,
                at: [at[1], at[2], at[3]],
                taps: taps(weights, heads, &name("ssm_conv1d.weight"))?,
                gates: gates(weights, keys, heads, [&name("ssm_a"), &name("ssm_dt.bias")])?,
                norm: t.norm(weights, &name("ssm_norm.weight"), heads.value_dim)?,
            },
            output: weights.matrix(&name("ssm_out.weight"), t.hidden, heads.inner())?,
        })
    }

    /// x += output(delta net(norm(x))).   x: [tokens, hidden]
    fn record(&self, step: &mut Step, x: &Tensor, state: &RecurrentLayer) -> Result<()> {
        let projected = step.norm_joint("delta x", x, &self.norm, &self.projection)?; // q k v, z, beta and alpha
        let out = step.delta_net(&projected, &self.net, state)?; // convolution, delta rule, gated norm
        Ok(step.add_linear(x, &out, &self.output, None)?)
    }
}

/// The convolution's weights [channels, taps] as [taps, channels], so that neighbours read neighbours.
fn taps(weights: &mut Weights, heads: &DeltaHeads, name: &str) -> Result<View> {
    let rows = weights.host_rows(name, heads.channels(), heads.taps)?;
    let columns: Vec<f32> = (0..heads.taps).flat_map(|t| rows.iter().skip(t).step_by(heads.taps).copied()).collect();
    Ok(weights.upload(name, &columns)?)
}

/// a and dt of each value head, side by side.
fn gates(weights: &mut Weights, keys: &Keys, heads: &DeltaHeads, [a, dt]: [&str; 2]) -> Result<View> {
    let (decay, bias) = (weights.host_vector(a, heads.value_heads)?, weights.host_vector(dt, heads.value_heads)?);
    // One above zero would make the state grow without end.
    if let Some(value) = decay.iter().find(|a| !(a.is_finite() && **a <= 0.0)) {
        return Err(Error::Decay { file: keys.file().into(), name: a.into(), value: *value });
    }
    let both: Vec<[f32; 2]> = decay.into_iter().zip(bias).map(|(a, dt)| [a, dt]).collect();
    Ok(weights.upload(a, &both)?)
}

/// The first half of a layer.
pub enum Mixer {
    Delta(Box<DeltaNetLayer>),
    Attention(Box<GatedAttention>),
}

/// Delta nets and gated attention on one residual stream, each followed by a feed-forward.
pub struct Hybrid<F> {
    shape: Shape,
    rope: Rope,
    ends: Ends,
    layers: Vec<(Mixer, F)>,
}

impl<F: FeedForward + 'static> Hybrid<F> {
    /// Loads all layers: `delta` loads a delta net, `feed_forward` what follows either mixer, by the layer's number; `ff`
    /// are the floats of the latter that live at once for each token.
    pub fn load(
        weights: &mut Weights,
        keys: &Keys,
        sizes: &Sizes,
        ff: usize,
        delta: impl Fn(&mut Weights, usize) -> Result<DeltaNetLayer>,
        feed_forward: impl Fn(&mut Weights, usize) -> Result<F>,
    ) -> Result<Box<dyn Architecture>> {
        let t = &sizes.t;
        let ends = Ends::load(weights, t)?;
        let mut layers = Vec::with_capacity(t.layers);
        for (i, recurrent) in sizes.recurrent.iter().enumerate() {
            let mixer = match recurrent {
                true => Mixer::Delta(Box::new(delta(weights, i)?)),
                false => Mixer::Attention(Box::new(GatedAttention::load(weights, t, i)?)),
            };
            layers.push((mixer, feed_forward(weights, i)?));
        }
        (t.layers..sizes.blocks).for_each(|i| weights.skip(&format!("blk.{i}.")));
        // Sections of the rope say which of a picture's coordinates turns a pair; in text they are all the position.
        let rope = Rope::new(keys, t.rope_dim, None)?;
        Ok(Box::new(Hybrid { shape: sizes.shape(ff), rope, ends, layers }))
    }
}

impl<F: FeedForward> Architecture for Hybrid<F> {
    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn ropes(&self) -> &[Rope] {
        std::slice::from_ref(&self.rope)
    }

    fn forward(&self, step: &mut Step, cache: &KvCache, ropes: &[View]) -> Result<Tensor> {
        let x = step.embed(&self.ends.embedding, 1.0)?; // [tokens, hidden]
        for (i, (mixer, feed_forward)) in self.layers.iter().enumerate() {
            step.enter_layer(i);
            match mixer {
                Mixer::Delta(net) => net.record(step, &x, cache.recurrent(i))?,
                Mixer::Attention(attention) => attention.record(step, &x, cache.kv(i), &ropes[0])?,
            }
            feed_forward.record(step, &x)?;
        }
        Ok(x)
    }

    fn head(&self) -> (&Norm, &Matrix) {
        (&self.ends.norm, &self.ends.output)
    }
}
