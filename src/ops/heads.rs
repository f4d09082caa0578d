//! Per-head RMSNorm of q and k, rotary position embedding, and the cache write.

use super::kv::{KvLayer, Part, no_values};
use super::{Error, Norm, Result, Step, Tensor, ensure};
use crate::gpu::{Call, Cost, Grid, View, params};

params!(HeadsParams {
    heads: u32,
    kv_heads: u32,
    pairs: u32,
    eps: f32,
    q_at: u32,
    k_at: u32,
    v_at: u32,
    stride: u32,
    temperature: f32,
    span: u32,
    offset: u32,
    rows: u32,
    first_row: u32,
    shard_rows: u32,
    first_z: u32,
});

/// Which elements of a head turn together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopePairs {
    /// (2i, 2i + 1): llama's.
    Adjacent,
    /// (i, i + pairs): GPT-NeoX's, and most others'.
    HalfSplit,
}

/// Queries grow by 1 + scale * ln(1 + floor((position + offset) / span)), so that attention stays sharp over long contexts.
#[derive(Clone, Copy, Debug)]
pub struct Temperature {
    pub scale: f32,
    /// Positions; at least 1.
    pub span: usize,
    /// Positions.
    pub offset: usize,
}

/// What lies in a row of the joint projection and how it becomes attention's input.
pub struct Heads<'a> {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// First outputs of q, k and v in a row.
    pub at: [usize; 3],
    pub qk_norm: Option<(&'a Norm, &'a Norm)>,
    /// Whether heads of v are normalised too, without weights; of those with a norm of q and k.
    pub v_norm: bool,
    pub pairs: RopePairs,
    /// f32 [positions, rope dimensions / 2, 2]: cos and sin.
    pub rope: &'a View,
    /// Elements of a head that turn; even.
    pub rope_dim: usize,
    /// Of q alone.
    pub temperature: Option<Temperature>,
}

impl Step<'_> {
    /// Normalises and rotates q and k, writes k and v into the cache, and gives q [tokens, heads * head_dim].
    pub fn heads(&mut self, qkv: &Tensor, h: &Heads, cache: &KvLayer) -> Result<Tensor> {
        ensure(
            h.head_dim.is_multiple_of(4) && h.rope_dim.is_multiple_of(2) && h.rope_dim <= h.head_dim,
            "heads",
            || format!("head size {} (a multiple of 4 is needed), of which {} turn", h.head_dim, h.rope_dim),
        )?;
        let [q_at, k_at, v_at] = h.at;
        let ends = [q_at + h.heads * h.head_dim, k_at + h.kv_heads * h.head_dim, v_at + h.kv_heads * h.head_dim];
        ensure(qkv.rows == self.tokens && ends.iter().all(|end| *end <= qkv.columns), "heads", || {
            format!("q, k and v end at {ends:?} in [{}, {}], of {} tokens", qkv.rows, qkv.columns, self.tokens)
        })?;
        ensure(h.qk_norm.is_none_or(|(q, k)| q.columns == h.head_dim && k.columns == h.head_dim), "heads", || {
            format!("norms of q and k that are not of the head size {}", h.head_dim)
        })?;
        ensure(!h.v_norm || h.qk_norm.is_some(), "heads", || "a norm of v without one of q and k".into())?;
        ensure(h.temperature.is_none_or(|t| t.span > 0), "heads", || "a temperature over no positions".into())?;
        if let Some(wrong) = cache.refuses(h.kv_heads, h.head_dim, Some(1), self.tokens) {
            return Err(Error::Shape { op: "heads", message: wrong });
        }
        let q = self.tensor("q", h.heads * h.head_dim)?;
        let v_cache = cache.v.as_ref().ok_or_else(|| no_values("heads"))?;
        let rows = cache.rows(h.kv_heads, h.head_dim);
        // Without KV heads nothing is written.
        let shards = if h.kv_heads == 0 { 1 } else { usize::MAX };
        for parts in cache.k.parts(rows).zip(v_cache.parts(rows)).take(shards) {
            self.heads_of_shard(qkv, h, cache, &q, rows, parts)?;
        }
        Ok(q)
    }

    /// The queries beside the first shard of the cache, and the keys and values that lie in it.
    fn heads_of_shard(
        &mut self,
        qkv: &Tensor,
        h: &Heads,
        cache: &KvLayer,
        q: &Tensor,
        rows: usize,
        (k, v): (Part, Part),
    ) -> Result<()> {
        let heads = if k.first == 0 { h.heads } else { 0 };
        let elements = (heads + 2 * h.kv_heads) * h.head_dim * self.tokens;
        let spec = self
            .reducing("heads", self.tuning.row)
            .size("HEAD_DIM", h.head_dim as u32)
            .flag("QK_NORM", h.qk_norm.is_some())
            .flag("V_NORM", h.v_norm)
            .flag("ADJACENT", h.pairs == RopePairs::Adjacent)
            .flag("TEMPERATURE", h.temperature.is_some());
        let mut bind =
            vec![("qkv", &qkv.view), ("q", &q.view), ("rope", h.rope), ("k_cache", k.view), ("v_cache", v.view)];
        if let Some((q_norm, k_norm)) = h.qk_norm {
            bind.extend([("q_norm", &q_norm.weight), ("k_norm", &k_norm.weight)]);
        }
        self.recorder.call(Call {
            spec: cache.format.flag(spec),
            bind: &bind,
            params: HeadsParams {
                heads: heads as u32,
                kv_heads: h.kv_heads as u32,
                pairs: (h.rope_dim / 2) as u32,
                eps: h.qk_norm.map_or(0.0, |(n, _)| n.eps),
                q_at: h.at[0] as u32,
                k_at: h.at[1] as u32,
                v_at: h.at[2] as u32,
                stride: qkv.columns as u32,
                temperature: h.temperature.map_or(0.0, |t| t.scale),
                span: h.temperature.map_or(0, |t| t.span as u32),
                offset: h.temperature.map_or(0, |t| t.offset as u32),
                rows: rows as u32,
                first_row: k.first as u32,
                shard_rows: k.rows as u32,
                ..Default::default()
            },
            grid: Grid([(heads + 2 * h.kv_heads) as u32, 1, self.tokens as u32]),
            cost: Cost { other_bytes: 8 * elements as u64, ..Cost::default() },
        })?;
        Ok(())
    }
}
