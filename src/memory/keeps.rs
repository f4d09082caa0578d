//! What layers keep from one token to the next, and in how many bytes.

use super::KvFormat;
use super::rows::Kind;
use crate::ops::KvUse;

/// Values that a position takes in a layer's cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KvWidth {
    pub heads: usize,
    /// Of a head's key, or the row of latent attention.
    pub k: usize,
    /// Of a head's value; 0 where it is part of the key.
    pub v: usize,
    /// Of a lightning indexer's keys; 0 without one.
    pub index: usize,
}

impl KvWidth {
    /// Keys and values alike.
    pub fn both(heads: usize, head_dim: usize) -> KvWidth {
        KvWidth { heads, k: head_dim, v: head_dim, index: 0 }
    }
}

/// What a layer with compressed keys keeps: see [`crate::ops::CompressedLayer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compressed {
    /// Values of a row, of a position or of an entry.
    pub row: usize,
    /// Positions that a token sees by rows of their own, the last.
    pub window: usize,
    /// Positions of an entry; none: there are no entries.
    pub ratio: Option<usize>,
    /// Of an entry's key for the indexer; 0 without one.
    pub index: usize,
    /// Floats that windows which are not full come to, of entries and of their keys for the indexer.
    pub sums: [usize; 2],
}

impl Compressed {
    /// Entries of so many positions.
    pub fn entries(&self, positions: usize) -> usize {
        self.ratio.map_or(0, |ratio| positions / ratio)
    }
}

/// How far a cache reaches.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// Positions of the sequence.
    pub positions: usize,
    /// Positions that layers with a window keep beyond it: a step writes all its keys before its first token has read those
    /// that it sees, and steps are queued ahead of an answer that may end before them.
    pub beyond: usize,
}

/// What a layer keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeps {
    /// Keys and values of every position.
    Kv(KvWidth),
    /// Keys and values of the last positions, of which a token sees at most `window`.
    Window { width: KvWidth, window: usize },
    /// One state, however many positions it has seen: floats of a convolution's last inputs, and of the delta rule.
    Recurrent { conv: usize, delta: usize },
    /// Keys, which are the values, of the last positions, and entries that stand for several positions each.
    Compressed(Compressed),
}

impl Keeps {
    /// Rows of keys of single positions, and whether positions share them.
    pub(super) fn rows(self, extent: Extent) -> (usize, bool) {
        match self {
            Keeps::Window { window, .. } | Keeps::Compressed(Compressed { window, .. }) => {
                let rows = window.saturating_add(extent.beyond).min(extent.positions);
                (rows, rows < extent.positions)
            }
            _ => (extent.positions, false),
        }
    }

    /// Whether its rows become more with the positions.
    pub(super) fn grows(self, extent: Extent) -> bool {
        match self {
            Keeps::Kv(_) | Keeps::Window { .. } => !self.rows(extent).1,
            Keeps::Recurrent { .. } => false,
            Keeps::Compressed(c) => c.ratio.is_some(),
        }
    }

    /// Its rows with room for `room` positions: keys, values, and an indexer's keys.
    pub(super) fn kinds(self, extent: Extent, room: usize, format: KvFormat) -> [Option<Kind>; 3] {
        let (own, ring) = self.rows(extent);
        let kind = |name, reads, planes, rows| Some(Kind { name, reads, planes, rows });
        match self {
            Keeps::Recurrent { .. } => [None; 3],
            Keeps::Kv(w) | Keeps::Window { width: w, .. } => {
                let rows = if ring { own } else { room.min(own) };
                let reads = if w.v == 0 { KvUse::Latents } else { KvUse::KeysAndValues };
                let v = kind("V cache", reads, format.planes(w.heads, w.v), rows);
                let index = kind("index cache", KvUse::Index, format.of_index().planes(1, w.index), rows);
                let k = kind("K cache", reads, format.planes(w.heads, w.k), rows);
                [k, v.filter(|_| w.v > 0), index.filter(|_| w.index > 0)]
            }
            Keeps::Compressed(c) => {
                let entries = c.entries(room);
                let rows = own.saturating_add(entries);
                let index = kind("index cache", KvUse::Index, format.planes(1, c.index), entries.max(1));
                let k = kind("K cache", KvUse::Compressed, format.planes(1, c.row), rows);
                [k, None, index.filter(|_| c.index > 0)]
            }
        }
    }

    /// Bytes of each of its buffers that have no rows.
    pub(super) fn fixed_bytes(self) -> [u64; 2] {
        let floats = match self {
            Keeps::Kv(_) | Keeps::Window { .. } => [0; 2],
            Keeps::Recurrent { conv, delta } => [conv, delta],
            Keeps::Compressed(c) => c.sums,
        };
        floats.map(|floats| 4 * floats as u64)
    }

    /// Bytes of all its buffers with room for `room` positions.
    pub(super) fn bytes(self, extent: Extent, room: usize, format: KvFormat) -> u64 {
        let rows = self.kinds(extent, room, format).into_iter().flatten().map(|kind| kind.bytes());
        rows.chain(self.fixed_bytes()).fold(0, u64::saturating_add)
    }

    /// Bytes of it that cannot be cut back to any position: a state, or the window of a ring.
    pub(super) fn state_bytes(self, extent: Extent, format: KvFormat) -> u64 {
        match self {
            Keeps::Window { window, .. } if self.rows(extent).1 => {
                self.bytes(Extent { positions: window, ..extent }, window, format)
            }
            Keeps::Recurrent { .. } => self.fixed_bytes().iter().sum(),
            Keeps::Compressed(c) => {
                let window =
                    if self.rows(extent).1 { format.row_bytes(1, c.row).saturating_mul(c.window as u64) } else { 0 };
                self.fixed_bytes().iter().sum::<u64>() + window
            }
            _ => 0,
        }
    }
}
