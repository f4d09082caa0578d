//! DeepSeek-V4's attention: one row a position is key and value of all heads. Tokens see rows of their own for the last
//! positions, and behind those entries, into each of which a compressor has made so many positions, the best of them by an
//! indexer if need be.

use super::attention::{Attention, Entries, Rows};
use super::{Error, KvFormat, KvLayer, Norm, Result, Selection, Step, Tensor, ensure};
use crate::gpu::{Call, Cost, Grid, View, params};

params!(WindowRowsParams {
    heads: u32,
    pairs: u32,
    stride: u32,
    at: u32,
    eps: f32,
    rows: u32,
    index_heads: u32,
    index_dim: u32,
    first_z: u32,
});
params!(CompressParams {
    tokens: u32,
    stride: u32,
    kv_at: u32,
    gate_at: u32,
    pairs: u32,
    eps: f32,
    first_row: u32,
    shard_rows: u32,
    last: u32,
    first_group: u32
});

/// One layer's cache.
pub struct CompressedLayer {
    /// Rows [window rows + entries, head_dim], which are keys and values, and the indexer's keys [entries, index size].
    pub kv: KvLayer,
    /// Rows that the last positions take turns in.
    pub window_rows: usize,
    /// What the tokens of windows that are not full come to: f32 of [`Compressor::sums`].
    pub sums: Option<View>,
    /// The same of the indexer's compressor.
    pub index_sums: Option<View>,
}

/// The geometry of the attention.
pub struct CompressedAttention {
    pub heads: usize,
    pub head_dim: usize,
    /// Lanes that turn, the last.
    pub rope_dim: usize,
    /// Of the scores, before softmax.
    pub scale: f32,
    /// Positions that a token sees by rows of their own, the last.
    pub window: usize,
    /// Positions of an entry; none: there are no entries.
    pub ratio: Option<usize>,
    /// `f32 [heads]`
    pub sinks: View,
    /// Of a position's row.
    pub norm: Norm,
}

/// What makes entries of rows.
pub struct Compressor {
    /// Positions of an entry.
    pub ratio: usize,
    /// Whether rows are twice as wide, and a position counts in the entry after its own by its first half.
    pub overlap: bool,
    pub head_dim: usize,
    /// Lanes that turn, the last.
    pub rope_dim: usize,
    /// f32 [ratio, width]: added to the gates.
    pub place: View,
    /// Of an entry.
    pub norm: Norm,
}

/// The compressor of the attention's rows, or of the indexer's keys.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    Row,
    IndexKey,
}

/// Entries have the sizes of rows of a cache.
const MAX_HEAD_DIM: usize = 1024;

impl Compressor {
    /// Columns of a row's values, and of its gates.
    pub fn width(head_dim: usize, overlap: bool) -> usize {
        if overlap { 2 * head_dim } else { head_dim }
    }

    /// Floats that are kept of windows that are not full: highest gate, weights and weighted values of each channel.
    pub fn sums(head_dim: usize, overlap: bool) -> usize {
        3 * Compressor::width(head_dim, overlap)
    }
}

/// Entries and sums are made of rows that were not rounded to blocks.
fn not_rounded(op: &'static str, cache: &KvLayer) -> Result<()> {
    ensure(cache.format.block() == 1, op, || format!("compressed keys in {:?}", cache.format))
}

fn missing(what: &str) -> Error {
    Error::Shape { op: "compress", message: format!("a cache without {what}") }
}

/// Positions that a table of turns is for.
fn positions(rope: &View, rope_dim: usize) -> usize {
    (rope.size / (4 * rope_dim) as u64) as usize
}

/// The indexer's queries [tokens, heads * size].
#[derive(Clone, Copy)]
pub struct IndexQueries<'a> {
    pub q: &'a Tensor,
    pub heads: usize,
}

impl Step<'_> {
    /// Norms and turns the queries `q` [tokens, heads * head_dim] where they lie, turns the indexer's, and puts each token's
    /// row, which lies in `a` [tokens, ..] from column `at` on, into the window. `rope` is f32 [positions, rope_dim / 2, 2].
    pub fn window_rows(
        &mut self,
        q: &Tensor,
        (a, at): (&Tensor, usize),
        index: Option<IndexQueries>,
        c: &CompressedAttention,
        rope: &View,
        cache: &CompressedLayer,
    ) -> Result<()> {
        let CompressedAttention { heads, head_dim, rope_dim, .. } = *c;
        ensure(q.rows == self.tokens && q.columns == heads * head_dim, "window_rows", || {
            format!("q is [{}, {}], of {heads} heads of {head_dim}", q.rows, q.columns)
        })?;
        ensure(
            a.rows == self.tokens && at + head_dim <= a.columns && c.norm.columns == head_dim,
            "window_rows",
            || format!("a row of {head_dim} at {at} in [{}, {}]", a.rows, a.columns),
        )?;
        let turns = rope_dim.is_multiple_of(4) && rope_dim > 0 && rope_dim <= head_dim;
        ensure(turns && head_dim.is_multiple_of(4) && head_dim <= MAX_HEAD_DIM, "window_rows", || {
            format!("heads of {head_dim} (a multiple of 4 up to {MAX_HEAD_DIM}), of which {rope_dim} turn")
        })?;
        // All tokens write before the first has read what it sees.
        let needed = (self.tokens + c.window - 1).min(positions(rope, rope_dim));
        let bytes = cache.kv.format.row_bytes(1, head_dim).saturating_mul(cache.window_rows as u64);
        not_rounded("window_rows", &cache.kv)?;
        let first = &cache.kv.k.shards[0];
        ensure(c.window > 0 && cache.window_rows >= needed && first.size >= bytes, "window_rows", || {
            format!("{} rows for a window of {} and {} tokens", cache.window_rows, c.window, self.tokens)
        })?;
        let index_dim = index.map_or(0, |i| i.q.columns / i.heads.max(1));
        let fits = |i: IndexQueries| i.q.rows == self.tokens && i.heads * index_dim == i.q.columns;
        ensure(index.is_none_or(|i| fits(i) && index_dim >= rope_dim), "window_rows", || {
            format!("an indexer's queries of {index_dim}, of which {rope_dim} turn")
        })?;
        let pairs = rope_dim / 2;
        let index_heads = index.map_or(0, |i| i.heads);
        let wg = self.tuning.row;
        let mut bind =
            vec![("q", &q.view), ("a", &a.view), ("rope", rope), ("norm", &c.norm.weight), ("k_cache", first)];
        bind.extend(index.map(|i| ("index_q", &i.q.view)));
        let lanes = 2 * heads * head_dim + 2 * head_dim + 2 * index_heads * rope_dim;
        self.recorder.call(Call {
            spec: self
                .reducing("window_rows", wg)
                .size("HEAD_DIM", head_dim as u32)
                .flag("INDEXER", index.is_some())
                .flag("KV_F16", cache.kv.format == KvFormat::F16),
            bind: &bind,
            params: WindowRowsParams {
                heads: heads as u32,
                pairs: pairs as u32,
                stride: a.columns as u32,
                at: at as u32,
                eps: c.norm.eps,
                rows: cache.window_rows as u32,
                index_heads: index_heads as u32,
                index_dim: index_dim as u32,
                ..Default::default()
            },
            grid: Grid([(1 + heads + (index_heads * pairs).div_ceil(wg as usize)) as u32, 1, self.tokens as u32]),
            cost: Cost { other_bytes: (4 * lanes * self.tokens) as u64, ..Cost::default() },
        })?;
        Ok(())
    }

    /// Adds the tokens' values and gates, which lie in `a` [tokens, ..] from the columns `at` on, to the windows that they
    /// are in; those that are full become entries.
    pub fn compress(
        &mut self,
        a: &Tensor,
        at: [usize; 2],
        c: &Compressor,
        rope: &View,
        cache: &CompressedLayer,
        entry: Entry,
    ) -> Result<()> {
        let Compressor { ratio, overlap, head_dim, rope_dim, .. } = *c;
        let width = Compressor::width(head_dim, overlap);
        ensure(a.rows == self.tokens && at.iter().all(|at| at + width <= a.columns), "compress", || {
            format!("values and gates of {width} at {at:?} in [{}, {}]", a.rows, a.columns)
        })?;
        let turns = rope_dim.is_multiple_of(2) && rope_dim > 0 && rope_dim <= head_dim;
        ensure(
            turns && ratio > 0 && head_dim.is_multiple_of(4) && head_dim <= MAX_HEAD_DIM && head_dim > 0,
            "compress",
            || format!("entries of {head_dim} (a multiple of 4 up to {MAX_HEAD_DIM}) of {ratio} positions"),
        )?;
        ensure(c.place.size >= (4 * ratio * width) as u64 && c.norm.columns == head_dim, "compress", || {
            format!("biases of {} bytes for {ratio} places of {width}", c.place.size)
        })?;
        let (rows, sums, first_row) = match entry {
            Entry::Row => (Some(&cache.kv.k), &cache.sums, cache.window_rows),
            Entry::IndexKey => (cache.kv.index.as_ref(), &cache.index_sums, 0),
        };
        let rows = rows.ok_or_else(|| missing("an indexer's keys"))?;
        let sums = sums.as_ref().ok_or_else(|| missing("what windows come to"))?;
        let floats = Compressor::sums(head_dim, overlap);
        ensure(sums.size >= (4 * floats) as u64, "compress", || format!("{} bytes for {floats} sums", sums.size))?;
        let entries = first_row + positions(rope, rope_dim) / ratio;
        not_rounded("compress", &cache.kv)?;
        let row_bytes = cache.kv.format.row_bytes(1, head_dim);
        ensure(rows.most_rows(row_bytes) >= entries, "compress", || {
            format!("{} rows for {entries} of {head_dim}", rows.most_rows(row_bytes))
        })?;
        let parts: Vec<_> = rows.parts(rows.rows(row_bytes)).collect();
        for (i, part) in parts.iter().enumerate() {
            self.recorder.call(Call {
                spec: self
                    .reducing("compress", self.tuning.row)
                    .size("HEAD_DIM", head_dim as u32)
                    .size("RATIO", ratio as u32)
                    .flag("OVERLAP", overlap)
                    .flag("KV_F16", cache.kv.format == KvFormat::F16),
                bind: &[
                    ("a", &a.view),
                    ("place", &c.place),
                    ("norm", &c.norm.weight),
                    ("rope", rope),
                    ("sums", sums),
                    ("cache", part.view),
                ],
                params: CompressParams {
                    tokens: self.tokens as u32,
                    stride: a.columns as u32,
                    kv_at: at[0] as u32,
                    gate_at: at[1] as u32,
                    pairs: (rope_dim / 2) as u32,
                    eps: c.norm.eps,
                    first_row: (first_row as u32).wrapping_sub(part.first as u32),
                    shard_rows: part.rows as u32,
                    last: u32::from(i + 1 == parts.len()),
                    ..Default::default()
                },
                grid: Grid([(1 + self.tokens / ratio) as u32, 1, 1]),
                cost: Cost { other_bytes: (8 * width * self.tokens + 8 * floats) as u64, ..Cost::default() },
            })?;
        }
        Ok(())
    }

    /// Attention over the window and the entries, all that a token sees or those that are selected, with each head's result
    /// turned back: [tokens, heads * head_dim].
    pub fn compressed_attention(
        &mut self,
        q: &Tensor,
        c: &CompressedAttention,
        rope: &View,
        cache: &CompressedLayer,
        selection: Option<&Selection>,
    ) -> Result<Tensor> {
        ensure(q.rows == self.tokens && q.columns == c.heads * c.head_dim, "attention", || {
            format!("q is [{}, {}], of {} heads of {}", q.rows, q.columns, c.heads, c.head_dim)
        })?;
        not_rounded("attention", &cache.kv)?;
        ensure(cache.kv.v.is_none() && c.window > 0, "attention", || "values of their own, or no window".into())?;
        let out = self.tensor("attended", c.heads * c.head_dim)?;
        let geometry = Attention {
            heads: c.heads,
            kv_heads: 1,
            head_dim: c.head_dim,
            scale: c.scale,
            window: None,
            sinks: Some(c.sinks.clone()),
        };
        let entries =
            Entries { window: c.window, window_rows: cache.window_rows, ratio: c.ratio, rope, pairs: c.rope_dim / 2 };
        let rows = Rows { q, first_token: 0, out: &out, selection, entries: Some(entries) };
        self.attend(&rows, &geometry, &cache.kv)?;
        Ok(out)
    }
}
