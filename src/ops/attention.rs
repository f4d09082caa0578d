//! Causal attention over the cache: one kernel, in decode over a long cache split over the keys.

use super::kv::{KEYS, KvLayer, KvUse, VALUES, no_values};
use super::{Error, Result, Selection, Step, Tensor, ensure};
use crate::gpu::{Call, Cost, Grid, KernelSpec, View, params};

params!(AttentionParams {
    tokens: u32,
    heads: u32,
    kv_heads: u32,
    splits: u32,
    scale: f32,
    first_group: u32,
    window: u32,
    first_token: u32,
    top_k: u32,
    rows: u32,
    ratio: u32,
    window_rows: u32,
    pairs: u32,
    shard_rows: u32,
    first_z: u32,
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

/// What one recording of the kernel works on.
pub(super) struct Rows<'t> {
    /// [tokens, heads * key size], of the step's tokens from `first_token` on.
    pub q: &'t Tensor,
    pub first_token: usize,
    /// [tokens, heads * value size]
    pub out: &'t Tensor,
    /// Of all tokens of the step; none: all positions up to a token's own.
    pub selection: Option<&'t Selection>,
    /// Of a cache that holds entries behind the rows of a window; a selection is of them.
    pub entries: Option<Entries<'t>>,
}

/// What such a cache needs.
#[derive(Clone, Copy)]
pub(super) struct Entries<'t> {
    /// Positions that a token sees by rows of their own, the last.
    pub window: usize,
    /// Rows that those take turns in.
    pub window_rows: usize,
    /// Positions of an entry; none: there are no entries.
    pub ratio: Option<usize>,
    /// f32 [positions, pairs, 2] of the pairs that turn: cos and sin.
    pub rope: &'t View,
    pub pairs: usize,
}

/// Largest heads of attention that is not latent.
pub const MAX_HEAD_DIM: usize = 512;
/// Quads of a query that are in workgroup memory at once where not all are: see shaders/attention.wgsl.
const MOST_STAGED: u32 = 16;
/// Bytes of queries that fit there.
const MOST_QUERIES: u32 = 8 << 10;

/// Has queries brought into workgroup memory in parts if a tile of them is too long.
pub(super) fn staged(spec: KernelSpec, tile_rows: u32, key_dim: u32) -> KernelSpec {
    if tile_rows * key_dim * 4 <= MOST_QUERIES {
        return spec;
    }
    let stage = (1..=MOST_STAGED).rev().find(|quads| (key_dim / 4).is_multiple_of(*quads)).unwrap_or(1);
    spec.size("STAGE", stage).flag("STAGED", true)
}

impl Step<'_> {
    /// Keys and values are read once for every tile of rows; where all heads share them, once for every token.
    fn attention_cost(&self, a: &Attention, rows: &Rows, cache: &KvLayer, tile_rows: usize) -> Cost {
        let (tokens, sharing) = (rows.q.rows, a.heads / a.kv_heads);
        let dims = a.head_dim + rows.out.columns / a.heads;
        let value_dim = if cache.v.is_some() { dims - a.head_dim } else { 0 };
        let row_bytes = [a.head_dim, value_dim].map(|dim| cache.format.row_bytes(a.kv_heads, dim) as usize);
        let row_bytes = row_bytes[0] + row_bytes[1];
        let tile_rows = if cache.v.is_some() { tile_rows } else { tile_rows.max(sharing) };
        let mut other_bytes = (tokens * a.heads * dims * 4) as u64;
        let mut position_bytes = ((tokens * sharing).div_ceil(tile_rows) * row_bytes) as u64;
        let (mut flops, mut position_flops) = (0, (2 * tokens * a.heads * dims) as u64);
        if let Some(entries) = rows.entries {
            // A token reads its window, and of the entries those that are selected, or all.
            let read = tokens * sharing.div_ceil(tile_rows) * row_bytes;
            let seen = (entries.window + rows.selection.map_or(0, |s| s.top_k)) as u64;
            other_bytes += read as u64 * seen;
            flops = position_flops * seen;
            let ratio = entries.ratio.filter(|_| rows.selection.is_none()).map_or(u64::MAX, |ratio| ratio as u64);
            (position_bytes, position_flops) = (read as u64 / ratio, position_flops / ratio);
        } else if let Some(selection) = rows.selection {
            // Not a position more than are selected, each token its own.
            other_bytes += (tokens * row_bytes * selection.top_k) as u64;
            flops = position_flops * selection.top_k as u64;
            (position_bytes, position_flops) = (0, 0);
        }
        if let Some(window) = a.window {
            // No position but those of the window, and of the tile's own tokens, costs anything.
            let seen = (window.positions() + tokens.min(tile_rows)) as u64;
            other_bytes += position_bytes * seen;
            flops = position_flops * seen;
            (position_bytes, position_flops) = (0, 0);
        }
        Cost { other_bytes, flops, position_bytes, position_flops, ..Cost::default() }
    }

    /// softmax(scale q k^T) v per head, each token over the positions up to its own. q and the result are
    /// [tokens, heads * head_dim].
    pub fn attention(&mut self, q: &Tensor, a: &Attention, cache: &KvLayer) -> Result<Tensor> {
        ensure(a.head_dim.is_multiple_of(4) && a.head_dim <= MAX_HEAD_DIM, "attention", || {
            format!("head size {}: a multiple of 4 up to {MAX_HEAD_DIM} is needed", a.head_dim)
        })?;
        if cache.v.is_none() {
            return Err(no_values("attention"));
        }
        ensure(q.rows == self.tokens, "attention", || format!("{} queries of {} tokens", q.rows, self.tokens))?;
        let out = self.tensor("attended", a.heads * a.head_dim)?;
        self.attend(&Rows { q, first_token: 0, out: &out, selection: None, entries: None }, a, cache)?;
        Ok(out)
    }

    /// Attention of `rows`; of the cache's keys alone where it has no values.
    pub(super) fn attend(&mut self, rows: &Rows, a: &Attention, cache: &KvLayer) -> Result<()> {
        let Rows { q, first_token, out, selection, entries } = *rows;
        let (tokens, value_dim) = (q.rows, out.columns / a.heads.max(1));
        ensure(a.kv_heads > 0 && a.heads.is_multiple_of(a.kv_heads), "attention", || {
            format!("{} heads do not share {} KV heads evenly", a.heads, a.kv_heads)
        })?;
        ensure(a.sinks.as_ref().is_none_or(|s| s.size >= a.heads as u64 * 4), "attention", || {
            format!("sinks of {} heads are needed", a.heads)
        })?;
        ensure(a.window.is_none_or(|w| w.positions() > 0), "attention", || "a window of no positions".into())?;
        let whole = q.columns == a.heads * a.head_dim && out.columns == a.heads * value_dim && q.rows == out.rows;
        let part = first_token + tokens <= self.tokens && value_dim <= a.head_dim;
        ensure(whole && part && value_dim.is_multiple_of(4), "attention", || {
            let (q, out) = ([q.rows, q.columns], [out.rows, out.columns]);
            format!("q is {q:?}, the result {out:?}, of {} heads of {}", a.heads, a.head_dim)
        })?;
        let latent = cache.v.is_none();
        let listed = selection.is_none_or(|s| s.positions.size >= (self.tokens * s.top_k * 4) as u64);
        ensure(listed && (latent || selection.is_none()), "attention", || "a selection that does not fit".into())?;
        let paired = entries.is_none_or(|e| (2 * e.pairs).is_multiple_of(4) && 2 * e.pairs <= value_dim);
        ensure(
            paired && (latent || entries.is_none()) && a.window.is_none_or(|_| entries.is_none()),
            "attention",
            || format!("entries of {value_dim} lanes that do not turn back by quads"),
        )?;
        let reads = match (latent, entries) {
            (false, _) => KvUse::KeysAndValues,
            (true, None) => KvUse::Latents,
            (true, Some(_)) => KvUse::Compressed,
        };
        self.binds("attention", &cache.k, reads)?;
        let (wg, most_rows) = if latent { self.tuning.latent } else { self.tuning.attention };
        let sharing = a.heads / a.kv_heads;
        // Of prefill one variant serves all lengths, so that none is compiled on the way.
        let tile_rows = if self.tokens == 1 { (sharing as u32).next_power_of_two().min(most_rows) } else { most_rows };
        let window = a.window.map(Window::positions);
        if let Some(wrong) = cache.refuses(a.kv_heads, a.head_dim, window, self.tokens) {
            return Err(Error::Shape { op: "attention", message: wrong });
        }
        let rows_so_far = cache.rows(a.kv_heads, a.head_dim);
        let held = cache.ring.unwrap_or_else(|| cache.k.most_rows(cache.format.row_bytes(a.kv_heads, a.head_dim)));
        let window = window.map(|w| w.min(held));
        let most = selection.map_or(usize::MAX, |s| s.top_k);
        let positions = match entries {
            Some(e) => e.window.min(e.window_rows) + held.saturating_sub(e.window_rows).min(most),
            None => window.unwrap_or(held).min(most),
        };
        let splits = if self.tokens == 1 { self.tuning.splits_for(positions, latent) } else { 1 };
        let split = splits > 1;
        let spec = KernelSpec::new("attention").size("WG", wg).size("ROWS", tile_rows);
        let key_dim = a.head_dim as u32;
        let spec = match latent {
            true => spec.size("KEY_DIM", key_dim).size("VALUE_DIM", value_dim as u32),
            false => spec.size("HEAD_DIM", key_dim),
        };
        let spec = staged(spec, tile_rows, key_dim)
            .flag("LATENT", latent)
            .flag("SELECTED", selection.is_some())
            .flag("ENTRIES", entries.is_some())
            .flag("LISTED", selection.is_some() || entries.is_some())
            .flag("WINDOW", a.window.is_some())
            .flag("CHUNK", matches!(a.window, Some(Window::Chunk(_))))
            .flag("SINKS", a.sinks.is_some())
            .flag("SPLIT", split);
        let mut bind = vec![("q", &q.view)];
        bind.extend(cache.k.bind(&KEYS));
        bind.extend(cache.v.iter().flat_map(|v| v.bind(&VALUES)));
        let (sums, stats) = if split {
            let per_split = (a.heads * 4) as u64 * u64::from(splits);
            let gpu = self.recorder.gpu();
            let sums = self.scratch.bytes(gpu, "split sums", per_split * value_dim as u64)?;
            (Some(sums), Some(self.scratch.bytes(gpu, "split stats", per_split * 2)?))
        } else {
            (None, None)
        };
        bind.push(("out", sums.as_ref().unwrap_or(&out.view)));
        bind.extend(stats.as_ref().map(|s| ("stats", s)));
        bind.extend(a.sinks.as_ref().map(|s| ("sinks", s)));
        bind.extend(selection.map(|s| ("selected", &s.positions)));
        bind.extend(entries.map(|e| ("rope", e.rope)));
        let tiles = match selection.is_some() || entries.is_some() {
            true => tokens * sharing.div_ceil(tile_rows as usize),
            false => (tokens * sharing).div_ceil(tile_rows as usize),
        };
        self.recorder.call(Call {
            spec: cache.k.beside(cache.format.flag(spec)),
            bind: &bind,
            params: AttentionParams {
                tokens: tokens as u32,
                heads: a.heads as u32,
                kv_heads: a.kv_heads as u32,
                splits,
                scale: a.scale,
                window: entries.map_or(window.unwrap_or(0), |e| e.window) as u32,
                first_token: first_token as u32,
                top_k: selection.map_or(u32::MAX, |s| s.top_k as u32),
                rows: rows_so_far as u32,
                ratio: entries.and_then(|e| e.ratio).map_or(u32::MAX, |ratio| ratio as u32),
                window_rows: entries.map_or(0, |e| e.window_rows as u32),
                pairs: entries.map_or(0, |e| e.pairs as u32),
                shard_rows: cache.k.shard_rows(a.kv_heads),
                ..Default::default()
            },
            grid: Grid::linear(tiles as u64, a.kv_heads as u64 * u64::from(splits)),
            cost: self.attention_cost(a, rows, cache, tile_rows as usize),
        })?;
        match (sums, stats) {
            (Some(sums), Some(stats)) => self.combine(a.heads, splits, &sums, &stats, out),
            _ => Ok(()),
        }
    }

    /// Joins the splits of one token.
    fn combine(&mut self, heads: usize, splits: u32, sums: &View, stats: &View, out: &Tensor) -> Result<()> {
        let dim = (out.columns / heads) as u32;
        self.recorder.call(Call {
            spec: KernelSpec::new("attention_combine")
                .size("WG", self.tuning.row.min(dim / 4))
                .size("SPLITS", splits)
                .size("HEAD_DIM", dim),
            bind: &[("sums", sums), ("stats", stats), ("out", &out.view)],
            params: CombineParams { heads: heads as u32 },
            grid: Grid([heads as u32, 1, 1]),
            cost: Cost { other_bytes: sums.size + (out.columns * 4) as u64, ..Cost::default() },
        })?;
        Ok(())
    }
}
