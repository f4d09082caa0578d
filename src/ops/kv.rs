//! Where a layer's keys and values lie.

use super::shards::beside_flags;
use super::{Error, Result, Step, ensure};
use crate::gpu::{KernelSpec, View};

/// How keys and values are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KvFormat {
    F32,
    #[default]
    F16,
    /// Blocks of 32 along the head: i8, times an f16. Behind the values of all rows lie the scales of all rows, of each head
    /// in words of its own.
    Q8_0,
}

impl KvFormat {
    /// As `-ctk` says it.
    pub fn name(self) -> &'static str {
        match self {
            KvFormat::F32 => "f32",
            KvFormat::F16 => "f16",
            KvFormat::Q8_0 => "q8_0",
        }
    }

    /// Values of a block; heads are a multiple of it.
    pub fn block(self) -> usize {
        if self == KvFormat::Q8_0 { 32 } else { 1 }
    }

    /// Bytes of the planes of a row of `heads` heads of `dim` values: values, and scales.
    pub fn planes(self, heads: usize, dim: usize) -> [u64; 2] {
        let (heads, dim) = (heads as u64, dim as u64);
        match self {
            KvFormat::F32 => [4 * heads * dim, 0],
            KvFormat::F16 => [2 * heads * dim, 0],
            KvFormat::Q8_0 => [heads * dim, heads * 4 * (dim / 32).div_ceil(2)],
        }
    }

    /// Bytes of a row of `heads` heads of `dim` values.
    pub fn row_bytes(self, heads: usize, dim: usize) -> u64 {
        self.planes(heads, dim).iter().sum()
    }

    /// That of an indexer's keys beside: they are never less than f16.
    pub fn of_index(self) -> KvFormat {
        if self == KvFormat::F32 { KvFormat::F32 } else { KvFormat::F16 }
    }

    /// Has a kernel read or write it.
    pub(super) fn flag(self, spec: KernelSpec) -> KernelSpec {
        spec.flag("KV_F16", self == KvFormat::F16).flag("KV_Q8_0", self == KvFormat::Q8_0)
    }
}

/// Rows of keys or values: in one buffer, or in shards where one buffer would be more than a kernel binds.
#[derive(Clone, Debug)]
pub struct KvRows {
    /// Each has `each` rows, the last those that are left.
    pub shards: Vec<View>,
    /// Rows of a shard that is full.
    pub each: usize,
    /// Rows that it may come to have, where it has fewer so far. Work is cut as if it had them, and kernels bind as many shards,
    /// so that what a step computes does not depend on how far the cache has grown.
    pub grows_to: Option<usize>,
}

impl From<View> for KvRows {
    fn from(view: View) -> KvRows {
        KvRows { shards: vec![view], each: usize::MAX, grows_to: None }
    }
}

/// Rows of a cache in one of its shards.
pub(super) struct Part<'r> {
    pub view: &'r View,
    /// Its first row.
    pub first: usize,
    pub rows: usize,
}

impl KvRows {
    /// Rows of `bytes` so far.
    pub fn rows(&self, bytes: u64) -> usize {
        self.shards.iter().map(|view| self.each.min((view.size / bytes.max(1)) as usize)).sum()
    }

    /// Rows of `bytes` that it may come to have.
    pub(super) fn most_rows(&self, bytes: u64) -> usize {
        self.grows_to.unwrap_or_else(|| self.rows(bytes))
    }

    /// Bytes so far.
    pub fn size(&self) -> u64 {
        self.shards.iter().map(|view| view.size).sum()
    }

    /// Shards that it may come to have.
    fn count(&self) -> usize {
        self.grows_to.map_or(0, |rows| rows.div_ceil(self.each)).max(self.shards.len())
    }

    /// Has a kernel read all its shards.
    pub(super) fn beside(&self, spec: KernelSpec) -> KernelSpec {
        beside_flags(spec, self.count())
    }

    /// Their bindings; the last shard fills what a kernel has more.
    pub(super) fn bind<'r>(
        &'r self,
        names: &'static [&'static str; MOST],
    ) -> impl Iterator<Item = (&'static str, &'r View)> {
        let last = self.shards.len() - 1;
        names
            .iter()
            .take(self.count().next_power_of_two())
            .enumerate()
            .map(move |(i, name)| (*name, &self.shards[i.min(last)]))
    }

    /// Its first `rows` rows shard by shard, for kernels that write them: one dispatch a shard, each of which skips what lies in
    /// others. So they need no more bindings than one shard takes, and no shard is bound twice where it is written.
    pub(super) fn parts(&self, rows: usize) -> impl Iterator<Item = Part<'_>> {
        let part = move |(i, view)| {
            let first = i * self.each.min(rows);
            Part { view, first, rows: self.each.min(rows - first.min(rows)) }
        };
        self.shards.iter().enumerate().map(part).filter(|part| part.rows > 0)
    }

    /// Rows of a full shard of `heads` heads each, as kernels count them.
    pub(super) fn shard_rows(&self, heads: usize) -> u32 {
        self.each.saturating_mul(heads).min(u32::MAX as usize) as u32
    }
}

/// Most shards of a layer's keys that a kernel binds.
const MOST: usize = 4;
/// What `shaders/lib/kv.wgsl` names them.
pub(super) const KEYS: [&str; MOST] = ["k_cache", "k_cache_1", "k_cache_2", "k_cache_3"];
pub(super) const VALUES: [&str; MOST] = ["v_cache", "v_cache_1", "v_cache_2", "v_cache_3"];

/// What a kernel reads rows for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvUse {
    /// Attention over keys and values.
    KeysAndValues,
    /// Attention over keys that are values.
    Latents,
    /// The same, over entries behind the rows of a window.
    Compressed,
    /// The choice of an indexer.
    Index,
}

impl KvUse {
    /// Most shards that a kernel reads where it binds at most so many storage buffers.
    pub fn most_shards(self, storage_buffers: u32) -> usize {
        let (others, views) = match self {
            KvUse::KeysAndValues => (4, 2), // q, result or sums, maxima, sinks
            KvUse::Latents => (4, 1),       // q, result or sums, maxima, selection
            KvUse::Compressed => (6, 1),    // and sinks, turns
            KvUse::Index => (3, 1),         // q, weights, scores
        };
        [MOST, MOST / 2].into_iter().find(|count| others + count * views <= storage_buffers as usize).unwrap_or(1)
    }
}

/// One layer's keys and values, each [rows, kv_heads, head_dim].
pub struct KvLayer {
    pub k: KvRows,
    /// None: values are the first lanes of the keys (latent attention).
    pub v: Option<KvRows>,
    /// Keys of a lightning indexer [positions, head size], see [`KvFormat::of_index`].
    pub index: Option<KvRows>,
    pub format: KvFormat,
    /// Rows of a layer whose tokens see a window: position p lies in row p % rows. None: each position has a row of its own.
    pub ring: Option<usize>,
}

impl KvLayer {
    /// Keys, values, and an indexer's keys.
    pub fn parts(&self) -> [Option<&KvRows>; 3] {
        [Some(&self.k), self.v.as_ref(), self.index.as_ref()]
    }

    pub(crate) fn parts_mut(&mut self) -> [Option<&mut KvRows>; 3] {
        [Some(&mut self.k), self.v.as_mut(), self.index.as_mut()]
    }

    /// Rows of `heads` heads of `dim` values.
    pub(crate) fn rows(&self, heads: usize, dim: usize) -> usize {
        self.ring.unwrap_or_else(|| self.k.rows(self.format.row_bytes(heads, dim)))
    }

    /// What is wrong with such rows, for `tokens` tokens that write them before the first has read `window` positions.
    pub(super) fn refuses(&self, heads: usize, dim: usize, window: Option<usize>, tokens: usize) -> Option<String> {
        if !dim.is_multiple_of(self.format.block()) {
            return Some(format!("heads of {dim} values in blocks of {}", self.format.block()));
        }
        let alike = self.v.as_ref().is_none_or(|v| v.each == self.k.each && v.shards.len() == self.k.shards.len());
        if !alike {
            return Some(format!("keys in {} shards, values in others", self.k.shards.len()));
        }
        let rows = self.ring?;
        let row = self.format.row_bytes(heads, dim);
        let fits = std::iter::once(&self.k).chain(&self.v).all(|held| held.rows(row) >= rows);
        let enough = window.is_some_and(|window| window.saturating_add(tokens) <= rows + 1);
        (!fits || !enough).then(|| {
            format!(
                "a ring of {rows} rows in {} bytes, for {tokens} tokens that see {window:?} positions",
                self.k.size()
            )
        })
    }
}

impl Step<'_> {
    /// Fails where a kernel cannot bind all shards.
    pub(super) fn binds(&self, op: &'static str, rows: &KvRows, reads: KvUse) -> Result<()> {
        let (count, most) = (rows.count(), reads.most_shards(self.recorder.gpu().caps().storage_buffers));
        ensure(count <= most, op, || format!("a cache in {count} shards, a kernel binds {most}"))
    }
}

/// Of an operator that needs them.
pub(super) fn no_values(op: &'static str) -> Error {
    Error::Shape { op, message: "a cache without values of its own".into() }
}
