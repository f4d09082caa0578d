//! What layers keep from one token to the next, and in how many bytes.

use super::KvFormat;

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

    /// Bytes of its keys, values and indexer's keys.
    fn bytes(self, format: KvFormat) -> [u64; 3] {
        let of_heads = |dim| format.row_bytes(self.heads, dim);
        [of_heads(self.k), of_heads(self.v), format.of_index().row_bytes(1, self.index)]
    }
}

/// What a layer with compressed keys keeps: see [`CompressedLayer`].
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
        matches!(self, Keeps::Kv(_) | Keeps::Window { .. }) && !self.rows(extent).1
    }

    /// Bytes of each of its buffers.
    pub(super) fn bytes(self, extent: Extent, format: KvFormat) -> [u64; 4] {
        match self {
            Keeps::Kv(w) | Keeps::Window { width: w, .. } => {
                let [k, v, index] = w.bytes(format).map(|bytes| bytes.saturating_mul(self.rows(extent).0 as u64));
                [k, v, index, 0]
            }
            Keeps::Recurrent { conv, delta } => [conv, delta, 0, 0].map(|floats| 4 * floats as u64),
            Keeps::Compressed(c) => {
                let entries = c.entries(extent.positions);
                let [sums, index_sums] = c.sums.map(|floats| 4 * floats as u64);
                let rows = |dim, count: usize| format.row_bytes(1, dim).saturating_mul(count as u64);
                let held = self.rows(extent).0.saturating_add(entries);
                [rows(c.row, held), sums, rows(c.index, entries.max(1)), index_sums]
            }
        }
    }

    /// Bytes of it that cannot be cut back to any position: a state, or the window of a ring.
    pub(super) fn state_bytes(self, extent: Extent, format: KvFormat) -> u64 {
        match self {
            Keeps::Window { window, .. } if self.rows(extent).1 => {
                self.bytes(Extent { positions: window, ..extent }, format).iter().sum()
            }
            Keeps::Recurrent { .. } => self.bytes(extent, format).iter().sum(),
            Keeps::Compressed(c) => {
                let window =
                    if self.rows(extent).1 { format.row_bytes(1, c.row).saturating_mul(c.window as u64) } else { 0 };
                c.sums.iter().map(|floats| 4 * *floats as u64).sum::<u64>() + window
            }
            _ => 0,
        }
    }
}
