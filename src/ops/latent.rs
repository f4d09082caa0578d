//! Latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1): the cache holds one row a position, a latent and a
//! rotated part, which all heads share. What would expand the latent to a head's key is applied to the query instead, what
//! would expand it to a value to the result.
//!
//! So in prefill, too. Expanding the latents there would take 2 * (key + value size) operations a query, head and position
//! (DeepSeek-V3: 640) in place of 2 * (576 + 512), but 262,144 more a head and position to expand, which only steps of
//! hundreds of tokens win back (512 tokens: 1152 to 2176), and 80 KB of expanded keys and values a position, written and
//! read by every step for every position before it (8192 positions: 1.3 GB a layer, 6 ms at 200 GB/s, where the operations
//! saved are 0.5 T); short prompts, which most are, would be slower.

use super::attention::{Attention, Rows};
use super::kv::KvLayer;
use super::linear::{MatmulParams, MatvecParams};
use super::{Norm, Result, Selection, Shard, Stack, Step, Tensor, ensure};
use crate::gpu::{Call, Cost, Grid, View, params};
use std::ops::Range;

params!(LatentParams {
    heads: u32,
    pairs: u32,
    stride: u32,
    at: u32,
    eps: f32,
    q_stride: u32,
    first_token: u32,
    first_row: u32,
    rows: u32,
    first_z: u32
});

/// The geometry and weights of latent attention.
pub struct LatentAttention {
    pub heads: usize,
    /// Lanes of the latent.
    pub rank: usize,
    /// Lanes of keys and queries that turn, behind those of the latent or of a head.
    pub rope_dim: usize,
    /// Of the scores, before softmax.
    pub scale: f32,
    /// Of the latent.
    pub norm: Norm,
    /// [heads, rank, lanes of a head that do not turn]
    pub k_b: Stack,
    /// [heads, value size, rank]
    pub v_b: Stack,
}

impl LatentAttention {
    /// Lanes of a row of the cache.
    pub fn key_dim(&self) -> usize {
        self.rank + self.rope_dim
    }

    /// Tokens whose queries are absorbed at once: they and their results are `heads` times as long as the cache's rows.
    pub fn slice(heads: usize, key_dim: usize) -> usize {
        let tokens = ((SLICE_BYTES / (heads * key_dim * 4)) + 1).next_power_of_two() / 2;
        tokens.max(1)
    }
}

/// What it works on.
pub struct LatentInputs<'a> {
    /// [tokens, heads * (lanes that do not turn + rope_dim)]
    pub q: &'a Tensor,
    /// [tokens, ..]: each row holds the token's latent and rotated part from column `at` on.
    pub a: &'a Tensor,
    pub at: usize,
    /// f32 [positions, rope_dim / 2, 2]: cos and sin.
    pub rope: &'a View,
    /// The positions that tokens see; all up to their own if none.
    pub selection: Option<&'a Selection>,
}

/// Bytes of the queries that are absorbed at once.
const SLICE_BYTES: usize = 64 << 20;

/// Where the heads' parts lie in the rows of x and y, in values: from one head to the next.
#[derive(Clone, Copy)]
struct Strides {
    x: usize,
    y: usize,
}

impl Strides {
    /// Where the parts of a shard's first head start in x and y.
    fn first(self, x: &Tensor, y: &Tensor, shard: &Shard) -> [usize; 2] {
        [x.first_row * x.columns + shard.first * self.x, y.first_row * y.columns + shard.first * self.y]
    }
}

impl Step<'_> {
    /// Attention over the cache, to which each token's latent and rotated part are added. The result is
    /// [tokens, heads * value size].
    pub fn latent_attention(&mut self, inputs: &LatentInputs, l: &LatentAttention, cache: &KvLayer) -> Result<Tensor> {
        let LatentInputs { q, a, at, selection, .. } = *inputs;
        let (nope, value_dim) = (l.k_b.columns, l.v_b.rows);
        ensure(q.rows == self.tokens && q.columns == l.heads * (nope + l.rope_dim), "latent", || {
            format!("q is [{}, {}], of {} heads of {nope} + {}", q.rows, q.columns, l.heads, l.rope_dim)
        })?;
        ensure(a.rows == self.tokens && at + l.key_dim() <= a.columns, "latent", || {
            format!("a latent of {} at {at} in [{}, {}]", l.key_dim(), a.rows, a.columns)
        })?;
        let of_heads = l.k_b.experts == l.heads && l.v_b.experts == l.heads;
        ensure(
            of_heads && l.k_b.rows == l.rank && l.v_b.columns == l.rank && l.norm.columns == l.rank,
            "latent",
            || format!("matrices of {} and {} heads for a latent of {}", l.k_b.experts, l.v_b.experts, l.rank),
        )?;
        let fours = [l.rank, l.rope_dim, nope].iter().all(|n| n.is_multiple_of(4)) && l.rope_dim > 0;
        ensure(fours && l.key_dim() <= 1024 && cache.v.is_none(), "latent", || {
            format!("a latent of {} + {} (multiples of 4, up to 1024), heads of {nope}", l.rank, l.rope_dim)
        })?;
        ensure(l.key_dim().is_multiple_of(cache.format.block()), "latent", || {
            format!("rows of {} values in blocks of {}", l.key_dim(), cache.format.block())
        })?;
        let out = self.tensor("values", l.heads * value_dim)?;
        let most = LatentAttention::slice(l.heads, l.key_dim());
        for first in (0..self.tokens).step_by(most) {
            let tokens = first..self.tokens.min(first + most);
            let queries = self.sliced("latent queries", l.heads * l.key_dim(), &tokens, most)?;
            let attended = self.sliced("attended", l.heads * l.rank, &tokens, most)?;
            self.latent_rows(inputs, l, cache, &tokens, &queries)?;
            let strides = Strides { x: nope + l.rope_dim, y: l.key_dim() };
            self.per_head(&q.slice(tokens.clone()), &queries, &l.k_b, strides)?;
            let geometry = Attention {
                heads: l.heads,
                kv_heads: 1,
                head_dim: l.key_dim(),
                scale: l.scale,
                window: None,
                sinks: None,
            };
            let rows = Rows { q: &queries, first_token: first, out: &attended, selection, entries: None };
            self.attend(&rows, &geometry, cache)?;
            self.per_head(&attended, &out.slice(tokens), &l.v_b, Strides { x: l.rank, y: value_dim })?;
        }
        Ok(out)
    }

    /// y = W x, group by group of the columns: x [tokens, groups * columns of W], y [tokens, groups * rows of W].
    pub fn grouped_linear(&mut self, name: &'static str, x: &Tensor, groups: &Stack) -> Result<Tensor> {
        ensure(x.rows == self.tokens && x.first_row == 0, "per head", || format!("{} rows", x.rows))?;
        let y = self.tensor(name, groups.experts * groups.rows)?;
        self.per_head(x, &y, groups, Strides { x: groups.columns, y: groups.rows })?;
        Ok(y)
    }

    /// A scratch tensor of some of the step's tokens, at most `most`.
    fn sliced(&mut self, name: &'static str, columns: usize, tokens: &Range<usize>, most: usize) -> Result<Tensor> {
        let bytes = (self.scratch.max_tokens.min(most) * columns * 4) as u64;
        let view = self.scratch.bytes(self.recorder.gpu(), name, bytes)?;
        Ok(Tensor { view, first_row: 0, rows: tokens.len(), columns })
    }

    /// The rotated parts of the queries, and the cache's rows.
    fn latent_rows(
        &mut self,
        inputs: &LatentInputs,
        l: &LatentAttention,
        cache: &KvLayer,
        tokens: &Range<usize>,
        queries: &Tensor,
    ) -> Result<()> {
        let LatentInputs { q, a, at, rope, .. } = *inputs;
        let wg = self.tuning.row;
        for part in cache.k.parts(cache.rows(1, l.key_dim())) {
            // The queries beside the first shard.
            let heads = if part.first == 0 { l.heads } else { 0 };
            let groups = 1 + (heads * l.rope_dim / 2).div_ceil(wg as usize);
            let lanes = l.key_dim() + 2 * heads * l.rope_dim;
            let spec = cache.format.flag(self.reducing("latent", wg));
            self.recorder.call(Call {
                spec: spec.size("LATENT", l.rank as u32).size("HEAD_DIM", l.key_dim() as u32),
                bind: &[
                    ("q", &q.view),
                    ("a", &a.view),
                    ("rope", rope),
                    ("norm", &l.norm.weight),
                    ("queries", &queries.view),
                    ("k_cache", part.view),
                ],
                params: LatentParams {
                    heads: heads as u32,
                    pairs: (l.rope_dim / 2) as u32,
                    stride: a.columns as u32,
                    at: at as u32,
                    eps: l.norm.eps,
                    q_stride: (l.k_b.columns + l.rope_dim) as u32,
                    first_token: tokens.start as u32,
                    first_row: part.first as u32,
                    rows: part.rows as u32,
                    ..Default::default()
                },
                grid: Grid([groups as u32, 1, tokens.len() as u32]),
                cost: Cost { other_bytes: (8 * lanes * tokens.len()) as u64, ..Cost::default() },
            })?;
        }
        Ok(())
    }

    /// y = W x, head by head.
    fn per_head(&mut self, x: &Tensor, y: &Tensor, stack: &Stack, strides: Strides) -> Result<()> {
        let heads = stack.experts;
        let fits = heads * strides.x == x.columns && stack.columns <= strides.x;
        ensure(fits && heads * strides.y == y.columns && stack.rows <= strides.y, "per head", || {
            let (x, y) = (x.columns, y.columns);
            format!("{heads} matrices [{}, {}] from {x} columns to {y}", stack.rows, stack.columns)
        })?;
        ensure(stack.columns.is_multiple_of(4) && strides.x.is_multiple_of(4), "per head", || {
            format!("{} columns of {}: multiples of 4 are needed", stack.columns, strides.x)
        })?;
        ensure(x.rows == y.rows, "per head", || format!("{} rows to {}", x.rows, y.rows))?;
        for shard in &stack.shards {
            match self.tokens {
                1 => self.head_matvec(x, y, stack, shard, strides)?,
                _ => self.head_matmul(x, y, stack, shard, strides)?,
            }
        }
        Ok(())
    }

    fn head_matvec(&mut self, x: &Tensor, y: &Tensor, stack: &Stack, shard: &Shard, strides: Strides) -> Result<()> {
        let [x_at, y_at] = strides.first(x, y, shard);
        let (_, rows) = self.tuning.matvec;
        let wg = self.tuning.matvec_wg(stack.rows.div_ceil(rows as usize) * stack.experts, stack.columns / 16);
        let spec = self.reducing("matvec", wg).format(stack.format).size("ROWS", rows);
        self.recorder.call(Call {
            spec: spec.flag("HEADS", true).flag("RAGGED", !stack.columns.is_multiple_of(16)),
            bind: &[("weights", &shard.view), ("x", &x.view), ("y", &y.view)],
            params: MatvecParams {
                outputs: stack.rows as u32,
                columns: stack.columns as u32,
                row_words: stack.row_words(),
                tail_words: stack.tail_words(),
                x_base: (x_at / 4) as u32,
                y_base: y_at as u32,
                expert_words: stack.expert_words(),
                x_head: (strides.x / 4) as u32,
                y_head: strides.y as u32,
                ..Default::default()
            },
            grid: Grid::linear(stack.rows.div_ceil(rows as usize) as u64, shard.count as u64),
            cost: head_cost(stack, shard, 1),
        })?;
        Ok(())
    }

    fn head_matmul(&mut self, x: &Tensor, y: &Tensor, stack: &Stack, shard: &Shard, strides: Strides) -> Result<()> {
        let ([x_at, y_at], tokens) = (strides.first(x, y, shard), x.rows);
        let tiled = self.tiled_unrounded(tokens, stack.format, [stack.rows, stack.columns]);
        let row_tiles = stack.rows.div_ceil(tiled.bm as usize) * shard.count;
        let grid = Grid::linear(row_tiles as u64, tokens.div_ceil(tiled.bn as usize) as u64);
        self.recorder.call(Call {
            spec: tiled.spec.format(stack.format).flag("HEADS", true),
            bind: &[("weights", &shard.view), ("x", &x.view), ("y", &y.view)],
            params: MatmulParams {
                outputs: stack.rows as u32,
                columns: stack.columns as u32,
                row_words: stack.row_words(),
                tail_words: stack.tail_words(),
                tokens: tokens as u32,
                y_stride: y.columns as u32,
                y_base: y_at as u32,
                expert_words: stack.expert_words(),
                heads: shard.count as u32,
                x_base: (x_at / 4) as u32,
                x_head: (strides.x / 4) as u32,
                x_stride: (x.columns / 4) as u32,
                y_head: strides.y as u32,
                ..Default::default()
            },
            grid,
            cost: head_cost(stack, shard, tokens),
        })?;
        Ok(())
    }
}

fn head_cost(stack: &Stack, shard: &Shard, tokens: usize) -> Cost {
    let lanes = shard.count * (stack.rows + stack.columns) * tokens;
    Cost {
        weight_bytes: stack.expert_bytes() * shard.count as u64,
        other_bytes: 4 * lanes as u64,
        flops: (2 * shard.count * stack.rows * stack.columns * tokens) as u64,
        ..Cost::default()
    }
}
