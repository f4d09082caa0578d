//! Random weights of any size and format: every row can be made again, so that none need be kept.

use super::super::{Random, Result};
use crate::formats::Format;
use crate::gpu::{Gpu, View};
use crate::ops::{Matrix, Shard, Stack};

/// Endless rows of random blocks.
pub struct Pool {
    format: Format,
    columns: usize,
    blocks: Vec<Vec<u8>>,
}

/// Bytes that are made and uploaded at once.
const CHUNK: usize = 16 << 20;

impl Pool {
    /// Random bytes, of which those blocks stay that decode to numbers of a usual size.
    pub fn new(format: Format, columns: usize) -> Pool {
        let mut random = Random::new(u64::from(format.ggml()));
        let mut values = vec![0.0; format.block()];
        let mut blocks = Vec::new();
        while blocks.len() < if format.block() == 1 { 512 } else { 64 } {
            let bytes: Vec<u8> = (0..format.block_bytes()).map(|_| random.word() as u8).collect();
            format.decode(&bytes, &mut values);
            let high = values.iter().fold(0f32, |high, v| if v.is_finite() { high.max(v.abs()) } else { f32::MAX });
            if (0.02..2.0).contains(&high) {
                blocks.push(bytes);
            }
        }
        Pool { format, columns, blocks }
    }

    /// Appends row `row` of matrix `copy`, as in a file.
    fn append(&self, copy: usize, row: usize, out: &mut Vec<u8>) {
        let mut random = Random::new(((copy as u64) << 40) + row as u64);
        for _ in 0..self.columns / self.format.block() {
            out.extend_from_slice(&self.blocks[random.below(self.blocks.len())]);
        }
    }

    /// The values of a row.
    pub fn row(&self, copy: usize, row: usize) -> Vec<f32> {
        let mut bytes = Vec::new();
        self.append(copy, row, &mut bytes);
        let mut values = vec![0.0; self.columns];
        self.format.decode(&bytes, &mut values);
        values
    }

    /// Rows of matrix `copy` in the device layout.
    fn upload(&self, gpu: &Gpu, copy: usize, first: usize, count: usize) -> Result<View> {
        let row_bytes = self.format.device_row_bytes(self.columns);
        let view = gpu.buffer("weights", (count * row_bytes) as u64)?;
        let at_once = (CHUNK / row_bytes).max(1);
        for start in (0..count).step_by(at_once) {
            let rows = at_once.min(count - start);
            let mut bytes = Vec::with_capacity(rows * self.format.row_bytes(self.columns));
            (0..rows).for_each(|r| self.append(copy, first + start + r, &mut bytes));
            let mut relaid = vec![0; rows * row_bytes];
            self.format.relay(self.columns, &bytes, &mut relaid);
            gpu.write(&view, (start * row_bytes) as u64, &relaid)?;
            gpu.flush()?;
        }
        Ok(view)
    }

    /// Runs of at most as many of `count` things, `bytes` each, as a binding spans.
    fn shards(&self, gpu: &Gpu, copy: usize, count: usize, rows_each: usize) -> Result<Vec<Shard>> {
        let bytes = self.format.device_row_bytes(self.columns) * rows_each;
        let most = (gpu.caps().max_shard as usize / bytes).max(1);
        let shard = |first: usize| {
            let count = most.min(count - first);
            Ok(Shard { view: self.upload(gpu, copy, first * rows_each, count * rows_each)?, first, count })
        };
        (0..count).step_by(most).map(shard).collect()
    }

    pub fn matrix(&self, gpu: &Gpu, copy: usize, rows: usize) -> Result<Matrix> {
        let shards = self.shards(gpu, copy, rows, 1)?;
        Ok(Matrix { format: self.format, rows, columns: self.columns, shards, stage: None })
    }

    /// Expert e's rows are `e * rows` and on.
    pub fn stack(&self, gpu: &Gpu, copy: usize, experts: usize, rows: usize) -> Result<Stack> {
        let shards = self.shards(gpu, copy, experts, rows)?;
        let stride = (self.format.device_row_bytes(self.columns) * rows) as u64;
        let mut table = vec![[0u32; 2]; experts];
        for (index, shard) in shards.iter().enumerate() {
            (0..shard.count).for_each(|slot| table[shard.first + slot] = [index as u32, slot as u32]);
        }
        let table = gpu.upload("experts", &table)?;
        Ok(Stack { format: self.format, experts, rows, columns: self.columns, shards, stride, table, stamps: None })
    }
}
