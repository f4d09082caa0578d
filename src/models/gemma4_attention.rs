//! The attention of Gemma 4: q and k normalised by head, v without weights, scores unscaled. Where a file has no matrix for
//! v, v is k before its norm; layers without keys of their own read those of another.

use super::Result;
use super::blocks::Transformer;
use crate::gpu::View;
use crate::memory::Weights;
use crate::ops::{Attention, Heads, Joint, KvLayer, Matrix, Norm, RopePairs, Step, Tensor, Window};

pub struct Gemma4Attention {
    norm: Norm,
    qkv: Joint,
    /// First outputs of q, k and v.
    at: [usize; 3],
    q_norm: Norm,
    /// None: keys and values are another layer's.
    k_norm: Option<Norm>,
    output: Matrix,
    post_norm: Norm,
    geometry: Attention,
    rope_dim: usize,
}

impl Gemma4Attention {
    pub fn load(
        weights: &mut Weights,
        t: &Transformer,
        layer: usize,
        own_keys: bool,
        window: Option<usize>,
    ) -> Result<Self> {
        let name = |what: &str| format!("blk.{layer}.{what}.weight");
        let (q_rows, kv_rows) = (t.heads * t.head_dim, t.kv_heads * t.head_dim);
        let [q, k, v] = ["attn_q", "attn_k", "attn_v"].map(name);
        let mut parts = vec![(q.as_str(), q_rows)];
        parts.extend(own_keys.then_some((k.as_str(), kv_rows)));
        parts.extend((own_keys && weights.has(&v)).then_some((v.as_str(), kv_rows)));
        let (qkv, at) = weights.joint(&parts, &[], t.hidden)?;
        let k_at = at.get(1).copied().unwrap_or(0);
        Ok(Gemma4Attention {
            norm: t.norm(weights, &name("attn_norm"), t.hidden)?,
            qkv,
            at: [at[0], k_at, at.get(2).copied().unwrap_or(k_at)],
            q_norm: t.norm(weights, &name("attn_q_norm"), t.head_dim)?,
            k_norm: match own_keys {
                true => Some(t.norm(weights, &name("attn_k_norm"), t.head_dim)?),
                false => None,
            },
            output: weights.matrix(&name("attn_output"), t.hidden, q_rows)?,
            post_norm: t.norm(weights, &name("post_attention_norm"), t.hidden)?,
            geometry: Attention {
                heads: t.heads,
                kv_heads: t.kv_heads,
                head_dim: t.head_dim,
                scale: 1.0,
                window: window.map(Window::Last),
                sinks: None,
            },
            rope_dim: t.rope_dim,
        })
    }

    /// x += norm(output(attention(norm(x)))).   x: [tokens, hidden]
    pub fn record(&self, step: &mut Step, x: &Tensor, cache: &KvLayer, rope: &View) -> Result<()> {
        let qkv = step.norm_joint("qkv", x, &self.norm, &self.qkv)?;
        let heads = Heads {
            heads: self.geometry.heads,
            kv_heads: if self.k_norm.is_some() { self.geometry.kv_heads } else { 0 },
            head_dim: self.geometry.head_dim,
            at: self.at,
            qk_norm: Some((&self.q_norm, self.k_norm.as_ref().unwrap_or(&self.q_norm))),
            v_norm: true,
            pairs: RopePairs::HalfSplit,
            rope,
            rope_dim: self.rope_dim,
            temperature: None,
        };
        let q = step.heads(&qkv, &heads, cache)?;
        let attended = step.attention(&q, &self.geometry, cache)?;
        let branch = step.project("branch", &attended, &self.output)?;
        Ok(step.add_norm(x, &branch, &self.post_norm)?)
    }
}
