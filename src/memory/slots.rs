//! The experts of a stack, and the slots that some of them lie in.

use super::copies::{RowCopy, Rows, copies};
use crate::formats::Format;
use crate::gpu::View;
use crate::ops::Shard;

/// Where the slots of a stack lie.
#[derive(Clone)]
pub(super) struct Slots {
    pub shards: Vec<Shard>,
    /// Bytes from one slot to the next.
    pub stride: u64,
}

/// The experts of one stack, and its slots.
pub(super) struct Slotted {
    format: Format,
    columns: usize,
    /// Rows of an expert.
    rows: usize,
    /// Where each expert lies in the file.
    pub sources: Vec<Vec<Rows>>,
    shards: Vec<Shard>,
    /// Bytes from one slot to the next.
    stride: u64,
    pub table: View,
}

impl Slotted {
    /// A stack whose experts have `rows` rows each, `parts` one after another.
    pub fn new(format: Format, columns: usize, rows: usize, parts: &[Rows], slots: &Slots, table: &View) -> Self {
        let mut sources = Vec::new();
        let (mut expert, mut filled) = (Vec::new(), 0);
        for part in parts {
            let mut done = 0;
            while done < part.count {
                let count = (rows - filled).min(part.count - done);
                expert.push(Rows { tensor: part.tensor.clone(), first: part.first + done, count });
                (done, filled) = (done + count, filled + count);
                if filled == rows {
                    sources.push(std::mem::take(&mut expert));
                    filled = 0;
                }
            }
        }
        let Slots { shards, stride } = slots.clone();
        Slotted { format, columns, rows, sources, shards, stride, table: table.clone() }
    }

    /// The copies of an expert into a slot.
    pub fn copies(&self, expert: u32, slot: usize) -> Vec<RowCopy> {
        let [shard, at] = self.place(slot).map(|n| n as usize);
        let bytes = (self.format.device_row_bytes(self.columns) * self.rows) as u64;
        let view = self.shards[shard].view.slice(at as u64 * self.stride, bytes);
        copies(
            &self.sources[expert as usize],
            &[Shard { view, first: 0, count: 1 }],
            0,
            self.rows,
            self.format,
            self.columns,
        )
    }

    pub fn slots(&self) -> usize {
        self.shards.iter().map(|shard| shard.count).sum()
    }

    /// The table's entry of an expert that lies in `slot`.
    pub fn place(&self, slot: usize) -> [u32; 2] {
        let per_shard = self.shards[0].count;
        [(slot / per_shard) as u32, (slot % per_shard) as u32]
    }
}
