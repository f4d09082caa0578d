//! What operators work on: activations, matrices in a block format, stacks of experts.

use crate::formats::Format;
use crate::gpu::View;
use std::ops::Range;

/// Activations, f32 [rows, columns], row-major, from row `first_row` of the view on.
#[derive(Clone)]
pub struct Tensor {
    pub view: View,
    pub first_row: usize,
    pub rows: usize,
    pub columns: usize,
}

impl Tensor {
    /// Some of its rows.
    pub fn slice(&self, rows: Range<usize>) -> Tensor {
        debug_assert!(rows.end <= self.rows, "{rows:?} of {} rows", self.rows);
        let first_row = self.first_row + rows.start;
        Tensor { view: self.view.clone(), first_row, rows: rows.len(), columns: self.columns }
    }

    /// The same values in shorter rows.
    pub fn in_rows_of(&self, columns: usize) -> Tensor {
        let rows = |count: usize| count * self.columns / columns;
        Tensor { view: self.view.clone(), first_row: rows(self.first_row), rows: rows(self.rows), columns }
    }
}

/// A run of a matrix's rows, or of a stack's experts, in one buffer.
#[derive(Clone)]
pub struct Shard {
    pub view: View,
    pub first: usize,
    pub count: usize,
}

/// Weights [rows, columns] in a block format's device layout, in as many shards as the binding limit needs.
#[derive(Clone)]
pub struct Matrix {
    pub format: Format,
    pub rows: usize,
    pub columns: usize,
    pub shards: Vec<Shard>,
    /// Where each shard passes through the device as a layer does: the number of the first.
    pub stage: Option<u32>,
}

impl Matrix {
    /// The shards, and the layer that each is brought as, where it is not of the layer that reads it.
    pub(super) fn staged(&self) -> impl Iterator<Item = (Option<u32>, &Shard)> {
        self.shards.iter().zip(0..).map(|(shard, piece)| (self.stage.map(|first| first + piece), shard))
    }

    /// Words from one row to the next.
    pub fn row_words(&self) -> u32 {
        row_words(self.format, self.columns)
    }

    /// Words from a row's start to its tails.
    pub fn tail_words(&self) -> u32 {
        tail_words(self.format, self.columns)
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> u64 {
        (self.format.device_row_bytes(self.columns) * self.rows) as u64
    }
}

fn row_words(format: Format, columns: usize) -> u32 {
    (format.device_row_bytes(columns) / 4) as u32
}

fn tail_words(format: Format, columns: usize) -> u32 {
    (columns / format.block() * format.body_bytes() / 4) as u32
}

/// Matrices that read the same input, rows of one format joined so that one dispatch serves them. A row of the result
/// holds their outputs, each at the `at` of its part.
pub struct Joint {
    pub parts: Vec<Part>,
    /// Outputs of all parts.
    pub outputs: usize,
}

/// One format's rows of a [`Joint`].
pub struct Part {
    pub matrix: Matrix,
    /// `f32 [rows]`.
    pub bias: Option<View>,
    /// The first output.
    pub at: usize,
}

/// The two input projections of a gated MLP.
pub enum GateUp {
    /// [2 * ff, columns], gate rows first.
    Joined(Matrix),
    /// Of two formats, or too large to be bound as one.
    Split { gate: Matrix, up: Matrix },
}

/// Weights [experts, rows, columns] of one format.
#[derive(Clone)]
pub struct Stack {
    pub format: Format,
    pub experts: usize,
    pub rows: usize,
    pub columns: usize,
    pub shards: Vec<Shard>,
    /// Bytes from one slot to the next.
    pub stride: u64,
    /// Where each expert lies: u32 [experts, 2], shard (or [`super::NOWHERE`]) and slot.
    pub table: View,
    /// Of experts that come and go, u32 `[experts]`: the clock of the last step that needed each.
    pub stamps: Option<View>,
}

impl Stack {
    pub fn row_words(&self) -> u32 {
        row_words(self.format, self.columns)
    }

    pub fn tail_words(&self) -> u32 {
        tail_words(self.format, self.columns)
    }

    /// Experts that lie on the device at once.
    pub fn slots(&self) -> usize {
        self.shards.iter().map(|shard| shard.count).sum()
    }

    /// Words from one expert to the next.
    pub fn expert_words(&self) -> u32 {
        (self.stride / 4) as u32
    }

    /// Bytes of one expert on the device.
    pub fn expert_bytes(&self) -> u64 {
        u64::from(self.row_words()) * 4 * self.rows as u64
    }
}
