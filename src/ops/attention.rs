//! Causal attention over the cache: one kernel, in decode over a long cache split over the keys.

use super::heads::KvLayer;
use super::{Result, Step, Tensor, ensure};
use crate::gpu::{Call, Cost, Grid, KernelSpec, View, params};

params!(AttentionParams {
    tokens: u32,
    heads: u32,
    kv_heads: u32,
    splits: u32,
    scale: f32,
    first_group: u32,
    window: u32
});
params!(CombineParams { heads: u32 });

/// Which positions up to its own a token sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// The last so many, its own included.
    Last(usize),
    /// Those of its own chunk, where positions are cut into chunks of so many.
    Chunk(usize),
}

impl Window {
    /// Positions that a token sees at most.
    pub fn positions(self) -> usize {
        let (Window::Last(n) | Window::Chunk(n)) = self;
        n
    }
}

/// The geometry of attention.
pub struct Attention {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// Of the scores, before softmax.
    pub scale: f32,
    /// All positions up to a token's own if none.
    pub window: Option<Window>,
    /// `f32 [heads]`: scores that take part in the softmax and have no value.
    pub sinks: Option<View>,
}

impl Step<'_> {
    /// Keys and values are read once for every tile of rows.
    fn attention_cost(&self, a: &Attention, cache: &KvLayer, tile_rows: usize) -> Cost {
        let rows = self.tokens * (a.heads / a.kv_heads);
        let row_bytes = 2 * a.kv_heads * a.head_dim * if cache.f16 { 2 } else { 4 };
        let mut other_bytes = (2 * self.tokens * a.heads * a.head_dim * 4) as u64;
        let mut position_bytes = (rows.div_ceil(tile_rows) * row_bytes) as u64;
        let (mut flops, mut position_flops) = (0, (4 * self.tokens * a.heads * a.head_dim) as u64);
        if let Some(window) = a.window {
            // No position but those of the window, and of the tile's own tokens, costs anything.
            let seen = (window.positions() + self.tokens.min(tile_rows)) as u64;
            other_bytes += position_bytes * seen;
            flops = position_flops * seen;
            (position_bytes, position_flops) = (0, 0);
        }
        Cost { other_bytes, flops, position_bytes, position_flops, ..Cost::default() }
    }

    /// softmax(scale q k^T) v per head, each token over the positions up to its own. q and the result are
    /// [tokens, heads * head_dim].
    pub fn attention(&mut self, q: &Tensor, a: &Attention, cache: &KvLayer) -> Result<Tensor> {
        ensure(a.kv_heads > 0 && a.heads.is_multiple_of(a.kv_heads), "attention", || {
            format!("{} heads do not share {} KV heads evenly", a.heads, a.kv_heads)
        })?;
        ensure(a.head_dim.is_multiple_of(4) && a.head_dim <= 256, "attention", || {
            format!("head size {}: a multiple of 4 up to 256 is needed", a.head_dim)
        })?;
        ensure(a.sinks.as_ref().is_none_or(|s| s.size >= a.heads as u64 * 4), "attention", || {
            format!("sinks of {} heads are needed", a.heads)
        })?;
        ensure(a.window.is_none_or(|w| w.positions() > 0), "attention", || "a window of no positions".into())?;
        ensure(q.rows == self.tokens && q.columns == a.heads * a.head_dim, "attention", || {
            format!(
                "q is [{}, {}], of {} tokens and {} heads of {}",
                q.rows, q.columns, self.tokens, a.heads, a.head_dim
            )
        })?;
        let out = self.tensor("attended", a.heads * a.head_dim)?;
        let (wg, most_rows) = self.tuning.attention;
        let sharing = a.heads / a.kv_heads;
        let rows = self.tokens * sharing;
        // Of prefill one variant serves all lengths, so that none is compiled on the way.
        let tile_rows = if self.tokens == 1 { (sharing as u32).next_power_of_two().min(most_rows) } else { most_rows };
        let row_bytes = (a.kv_heads * a.head_dim * if cache.f16 { 2 } else { 4 }) as u64;
        let positions = ((cache.k.size / row_bytes) as usize).min(a.window.map_or(usize::MAX, Window::positions));
        let splits = if self.tokens == 1 { self.tuning.splits_for(positions) } else { 1 };
        let split = splits > 1;
        let spec = KernelSpec::new("attention")
            .size("WG", wg)
            .size("ROWS", tile_rows)
            .size("HEAD_DIM", a.head_dim as u32)
            .flag("KV_F16", cache.f16)
            .flag("WINDOW", matches!(a.window, Some(Window::Last(_))))
            .flag("CHUNK", matches!(a.window, Some(Window::Chunk(_))))
            .flag("SINKS", a.sinks.is_some())
            .flag("SPLIT", split);
        let mut bind = vec![("q", &q.view), ("k_cache", &cache.k), ("v_cache", &cache.v)];
        let (sums, stats) = if split {
            let per_split = (a.heads * 4) as u64 * u64::from(splits);
            let gpu = self.recorder.gpu();
            let sums = self.scratch.bytes(gpu, "split sums", per_split * a.head_dim as u64)?;
            (Some(sums), Some(self.scratch.bytes(gpu, "split stats", per_split * 2)?))
        } else {
            (None, None)
        };
        bind.push(("out", sums.as_ref().unwrap_or(&out.view)));
        bind.extend(stats.as_ref().map(|s| ("stats", s)));
        bind.extend(a.sinks.as_ref().map(|s| ("sinks", s)));
        self.recorder.call(Call {
            spec,
            bind: &bind,
            params: AttentionParams {
                tokens: self.tokens as u32,
                heads: a.heads as u32,
                kv_heads: a.kv_heads as u32,
                splits,
                scale: a.scale,
                window: a.window.map_or(0, |w| w.positions() as u32),
                ..Default::default()
            },
            grid: Grid::linear(rows.div_ceil(tile_rows as usize) as u64, a.kv_heads as u64 * u64::from(splits)),
            cost: self.attention_cost(a, cache, tile_rows as usize),
        })?;
        if let (Some(sums), Some(stats)) = (sums, stats) {
            self.recorder.call(Call {
                spec: KernelSpec::new("attention_combine")
                    .size("WG", self.tuning.row.min((a.head_dim / 4) as u32))
                    .size("SPLITS", splits)
                    .size("HEAD_DIM", a.head_dim as u32),
                bind: &[("sums", &sums), ("stats", &stats), ("out", &out.view)],
                params: CombineParams { heads: a.heads as u32 },
                grid: Grid([a.heads as u32, 1, 1]),
                cost: Cost { other_bytes: sums.size + (a.heads * a.head_dim * 4) as u64, ..Cost::default() },
            })?;
        }
        Ok(out)
    }
}
