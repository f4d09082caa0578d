//! Which rows of which tensor go where: tensors cut into shards, and into pieces that are read at once.

use crate::formats::Format;
use crate::gguf::TensorInfo;
use crate::gpu::View;
use crate::ops::Shard;
use std::ops::Range;
use std::sync::Arc;

/// Bytes read, re-laid and handed to the device at once.
pub(super) const CHUNK: usize = 4 << 20;

/// Consecutive rows of a tensor.
#[derive(Clone)]
pub(super) struct Rows {
    pub tensor: Arc<TensorInfo>,
    pub first: usize,
    pub count: usize,
}

/// Consecutive rows of a tensor, and where they go.
#[derive(Clone)]
pub(super) struct RowCopy {
    pub tensor: Arc<TensorInfo>,
    pub format: Format,
    pub columns: usize,
    pub first_row: usize,
    pub rows: usize,
    pub view: View,
    /// The byte in the view.
    pub to: u64,
}

impl RowCopy {
    /// Bytes in the file.
    pub fn bytes(&self) -> usize {
        self.rows * self.format.row_bytes(self.columns)
    }

    /// Where they begin in the tensor.
    pub fn offset(&self) -> u64 {
        (self.first_row * self.format.row_bytes(self.columns)) as u64
    }

    /// Bytes on the device.
    pub fn laid_bytes(&self) -> usize {
        self.rows * self.format.device_row_bytes(self.columns)
    }
}

/// How `units` of so many bytes each lie in shards of at most `limit` bytes, as few as there can be: units of each shard.
pub(super) fn cut(units: usize, unit_bytes: u64, limit: u64) -> impl Iterator<Item = Range<usize>> {
    let per_shard = ((limit / unit_bytes) as usize).clamp(1, units.max(1));
    (0..units).step_by(per_shard).map(move |first| first..units.min(first + per_shard))
}

/// Consecutive rows of a part that go to one shard.
struct Run {
    part: usize,
    /// Of the part.
    first: usize,
    rows: usize,
    shard: usize,
    /// The row in the shard.
    at: usize,
}

/// Rows of parts of so many rows, one after another, into shards of `per_shard` rows each (the last may have fewer), from the row
/// `to_row` of all shards on; `most` rows at once.
fn runs(parts: impl IntoIterator<Item = usize>, per_shard: usize, to_row: usize, most: usize) -> Vec<Run> {
    let (mut runs, mut row) = (Vec::new(), to_row);
    for (part, count) in parts.into_iter().enumerate() {
        let mut first = 0;
        while first < count {
            let (shard, at) = (row / per_shard, row % per_shard);
            let rows = most.min(count - first).min(per_shard - at);
            runs.push(Run { part, first, rows, shard, at });
            (first, row) = (first + rows, row + rows);
        }
    }
    runs
}

/// The copies of `parts`, one after another, into shards of `unit` rows each, from the row `to_row` of all shards on.
pub(super) fn copies(
    parts: &[Rows],
    shards: &[Shard],
    to_row: usize,
    unit: usize,
    format: Format,
    columns: usize,
) -> Vec<RowCopy> {
    let (row_bytes, most) = (format.device_row_bytes(columns), (CHUNK / format.row_bytes(columns)).max(1));
    let copy = |run: Run| {
        let (part, to) = (&parts[run.part], run.at as u64 * row_bytes as u64);
        let (tensor, view) = (part.tensor.clone(), shards[run.shard].view.clone());
        RowCopy { tensor, format, columns, first_row: part.first + run.first, rows: run.rows, view, to }
    };
    runs(parts.iter().map(|part| part.count), shards[0].count * unit, to_row, most).into_iter().map(copy).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gate and up of DeepSeek-V4-Pro, [384, 2 * 3072, 7168]: 4 times 2^32 elements, on a device that binds 2 GiB less 4 bytes.
    #[test]
    fn a_stack_of_more_than_2_to_the_32_elements_lies_in_shards_of_32_bit_words() {
        let (experts, rows, columns, format, limit) = (384, 2 * 3072, 7168, Format::Q4K, (2u64 << 30) - 4);
        assert!(experts as u64 * rows as u64 * columns as u64 > 3 << 32);
        let row_bytes = format.device_row_bytes(columns) as u64;
        let unit = row_bytes * rows as u64;
        let shards: Vec<_> = cut(experts, unit, limit).collect();
        assert_eq!((shards.len(), shards[0].len(), shards.last().map(|last| last.end)), (5, 86, Some(experts)));
        for shard in &shards {
            let bytes = unit * shard.len() as u64;
            // Kernels count words in u32.
            assert!(bytes <= limit && bytes / 4 <= u64::from(u32::MAX));
            assert!(u32::try_from(unit / 4).unwrap().checked_mul(shard.len() as u32 - 1).is_some());
        }
        // Gates and ups come in turn from two tensors; every row of every shard is written, in order.
        let mut next = [0usize; 5];
        let (mut sum, per_shard) = (0, shards[0].len() * rows);
        for run in runs(vec![rows / 2; 2 * experts], per_shard, 0, 1000) {
            assert_eq!(run.at, next[run.shard]);
            assert!(run.at + run.rows <= shards[run.shard].len() * rows);
            assert_eq!(run.part, (run.shard * per_shard + run.at) / (rows / 2));
            next[run.shard] += run.rows;
            sum += run.rows;
        }
        assert_eq!(sum, experts * rows);
    }
}
