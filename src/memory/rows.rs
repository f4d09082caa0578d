//! Rows of a cache in buffers: made, grown, and found by position.

use super::{Error, Result};
use crate::gpu::{self, Gpu, View};
use crate::ops::{KvRows, KvUse};
use std::ops::Range;

/// One kind of rows that a layer keeps.
#[derive(Clone, Copy)]
pub(super) struct Kind {
    pub name: &'static str,
    pub reads: KvUse,
    /// Bytes of a row in each plane: values, and scales behind the values of all rows.
    pub planes: [u64; 2],
    pub rows: usize,
}

/// Where a layer's buffers are made.
#[derive(Clone, Copy)]
pub(super) struct Place<'p> {
    pub gpu: &'p Gpu,
    /// Of a layer that lies on another device: what stands for buffers that nobody uses.
    pub elsewhere: Option<&'p View>,
}

impl Place<'_> {
    pub fn buffer(&self, name: &str, bytes: u64) -> gpu::Result<View> {
        match self.elsewhere {
            None => self.gpu.buffer(name, bytes),
            Some(nothing) => Ok(View { size: bytes.max(16).next_multiple_of(16), ..nothing.clone() }),
        }
    }
}

impl Kind {
    pub fn row_bytes(&self) -> u64 {
        self.planes.iter().fold(0, |sum, bytes| sum.saturating_add(*bytes))
    }

    pub fn bytes(&self) -> u64 {
        self.row_bytes().saturating_mul(self.rows as u64)
    }

    /// Rows of a shard, where rows of up to `row_bytes` are cut alike, and a shard has at least `least` of them.
    pub fn each(&self, gpu: &Gpu, row_bytes: u64, least: usize) -> Result<usize> {
        let (limit, most) = (gpu.caps().max_cache_shard, self.reads.most_shards(gpu.caps().storage_buffers));
        let each = shard_rows(limit, row_bytes);
        if each >= least.max(1) && self.rows.div_ceil(each) <= most {
            return Ok(each);
        }
        Err(Error::KvShards { what: self.name, rows: self.rows, row: row_bytes, least, most, limit })
    }

    /// Rows of a cache with room for all of these, which come to be as many as `grows_to` says.
    pub fn make(&self, place: Place, each: usize, grows_to: Option<usize>) -> Result<KvRows> {
        self.grown(place, &KvRows { shards: vec![], each, grows_to })
    }

    /// Those of `held` in a cache with room for all of these: shards that are full stay, the last moves, others are added.
    pub fn grown(&self, place: Place, held: &KvRows) -> Result<KvRows> {
        let each = held.each;
        let shard = |at: usize| {
            let rows = each.min(self.rows - at * each);
            let Some(old) = held.shards.get(at) else { return self.buffer(place, rows) };
            let before = self.in_shard(old, each);
            if before >= rows {
                return Ok(old.clone());
            }
            let new = self.buffer(place, rows)?;
            let plane = |[start, bytes]: [u64; 2]| {
                let [from, to] = [before, rows].map(|rows| rows as u64);
                (old.slice(from * start, from * bytes), new.slice(to * start, from * bytes))
            };
            place.gpu.copy(&self.planes().map(plane).collect::<Vec<_>>())?;
            Ok(new)
        };
        let shards = (0..self.rows.div_ceil(each)).map(shard).collect::<Result<_>>()?;
        Ok(KvRows { shards, ..*held })
    }

    fn buffer(&self, place: Place, rows: usize) -> Result<View> {
        Ok(place.buffer(self.name, rows as u64 * self.row_bytes())?)
    }

    /// Where a row's planes start in a shard of one row, and their bytes.
    fn planes(&self) -> impl Iterator<Item = [u64; 2]> {
        [[0, self.planes[0]], self.planes].into_iter().filter(|[_, bytes]| *bytes > 0)
    }

    fn in_shard(&self, shard: &View, each: usize) -> usize {
        each.min((shard.size / self.row_bytes().max(1)) as usize)
    }

    /// Parts of the cache that hold `rows`, plane by plane: the bytes are the same however they are cut into shards.
    pub fn slices(&self, held: &KvRows, rows: &[Range<usize>]) -> Vec<View> {
        let mut slices = Vec::new();
        for [start, bytes] in self.planes() {
            for (at, range) in rows.iter().flat_map(|range| held.shards.iter().enumerate().map(move |s| (s, range))) {
                let (i, shard) = at;
                let (first, count) = (i * held.each.min(self.rows), self.in_shard(shard, held.each));
                let within = range.start.max(first)..range.end.min(first + count);
                if !within.is_empty() {
                    let from = count as u64 * start + (within.start - first) as u64 * bytes;
                    slices.push(shard.slice(from, within.len() as u64 * bytes));
                }
            }
        }
        slices
    }
}

/// Rows of a shard of at most `limit` bytes. Buffers are rounded up to 16.
pub(super) fn shard_rows(limit: u64, row_bytes: u64) -> usize {
    (limit / 16 * 16 / row_bytes.max(1)) as usize
}

/// The rows of positions in a ring of so many: one part, or two about its end.
pub(super) fn in_ring(rows: usize, positions: &Range<usize>) -> [Range<usize>; 2] {
    let from = positions.start % rows;
    let before = positions.len().min(rows - from);
    [from..from + before, 0..positions.len() - before]
}
