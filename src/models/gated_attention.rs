//! Grouped-query attention whose output a sigmoid gates, element by element (arXiv 2505.06708). The projection of q is
//! twice as wide as its heads: each head's q is followed by its gate.

use super::blocks::Transformer;
use super::{Result, blocks};
use crate::gpu::View;
use crate::memory::{Take, Weights};
use crate::ops::{Attention, Heads, Joint, KvLayer, Matrix, Norm, RopePairs, Step, Tensor};

pub struct GatedAttention {
    norm: Norm,
    projection: Joint,
    /// First outputs of q, k and v, and of the gate.
    at: [usize; 3],
    gate_at: usize,
    qk_norm: (Norm, Norm),
    output: Matrix,
    geometry: Attention,
    rope_dim: usize,
}

impl GatedAttention {
    pub fn load(weights: &mut Weights, t: &Transformer, layer: usize) -> Result<Self> {
        let name = |what: &str| format!("blk.{layer}.{what}.weight");
        let (q_rows, kv_rows, dim) = (t.heads * t.head_dim, t.kv_heads * t.head_dim, t.head_dim);
        let [q, k, v] = ["attn_q", "attn_k", "attn_v"].map(name);
        // The heads' queries side by side, then their gates.
        let of_q = |first| Take { name: &q, rows: 2 * q_rows, group: 2 * dim, first, run: dim };
        let takes = [of_q(0), of_q(dim), Take::all(&k, kv_rows), Take::all(&v, kv_rows)];
        let (projection, at) = weights.joint_of(&takes, &[], t.hidden)?;
        Ok(GatedAttention {
            norm: t.norm(weights, &name("attn_norm"), t.hidden)?,
            projection,
            at: [at[0], at[2], at[3]],
            gate_at: at[1],
            qk_norm: (t.norm(weights, &name("attn_q_norm"), dim)?, t.norm(weights, &name("attn_k_norm"), dim)?),
            output: weights.matrix(&name("attn_output"), t.hidden, q_rows)?,
            geometry: blocks::full_attention(t),
            rope_dim: t.rope_dim,
        })
    }

    /// Floats of each token that live at once: the projection; q and attention's result.
    pub fn floats_per_token(t: &Transformer) -> usize {
        (4 * t.heads + 2 * t.kv_heads) * t.head_dim
    }

    /// x += output(sigmoid(gate) * attention(norm(x))).   x: [tokens, hidden]
    pub fn record(&self, step: &mut Step, x: &Tensor, cache: &KvLayer, rope: &View) -> Result<()> {
        let projected = step.norm_joint("qkv", x, &self.norm, &self.projection)?;
        let heads = Heads {
            heads: self.geometry.heads,
            kv_heads: self.geometry.kv_heads,
            head_dim: self.geometry.head_dim,
            at: self.at,
            qk_norm: Some((&self.qk_norm.0, &self.qk_norm.1)),
            v_norm: false,
            pairs: RopePairs::HalfSplit,
            rope,
            rope_dim: self.rope_dim,
            temperature: None,
        };
        let q = step.heads(&projected, &heads, cache)?;
        let attended = step.attention(&q, &self.geometry, cache)?;
        step.gate(&attended, &projected, self.gate_at, 1)?;
        Ok(step.add_linear(x, &attended, &self.output, None)?)
    }
}
