//! The embedding and the output matrix, which are in no layer: they stay on the device, or pass through it in pieces, as layers do.

use super::copies::{Rows, copies, cut};
use super::{Result, Weights};
use crate::ops::{Matrix, Shard};

pub(super) const EMBEDDING: &str = "token_embd.weight";
pub(super) const OUTPUT: &str = "output.weight";

impl Weights<'_> {
    /// The embedding and the output matrix, each [vocabulary, hidden]; one where the file has no output matrix.
    ///
    /// # Errors
    /// A tensor that is missing, misshapen or of a type that is not read.
    pub fn ends(&mut self, vocabulary: usize, hidden: usize) -> Result<[Matrix; 2]> {
        let output = if self.has(OUTPUT) { OUTPUT } else { EMBEDDING };
        if let Some([first, last]) = self.store.stages_of_ends() {
            let embedding = self.passing(EMBEDDING, vocabulary, hidden, first)?;
            return Ok([embedding, self.passing(output, vocabulary, hidden, last)?]);
        }
        let embedding = self.matrix(EMBEDDING, vocabulary, hidden)?;
        let output = if output == EMBEDDING { embedding.clone() } else { self.matrix(output, vocabulary, hidden)? };
        Ok([embedding, output])
    }

    /// A matrix [rows, columns] whose pieces pass through as the layers from `stage` on.
    fn passing(&mut self, name: &str, rows: usize, columns: usize, stage: u32) -> Result<Matrix> {
        let tensor = self.tensor(name, &[columns, rows])?;
        let format = self.format(&tensor)?;
        let (gpu, row_bytes) = (self.gpu, format.device_row_bytes(columns) as u64);
        let stream = self.store.stream_mut().expect("pieces pass through");
        let (most, mut shards) = (stream.memory.slot.min(gpu.caps().max_shard), Vec::new());
        for (piece, rows) in cut(rows, row_bytes, most).enumerate() {
            let (layer, first, count) = (stage + piece as u32, rows.start, rows.len());
            let view = stream.place(gpu, layer, row_bytes * count as u64)?;
            let (part, shard) = (Rows { tensor: tensor.clone(), first, count }, Shard { view, first: 0, count });
            stream.add(layer, copies(&[part], std::slice::from_ref(&shard), 0, 1, format, columns));
            shards.push(Shard { first, ..shard });
        }
        Ok(Matrix { format, rows, columns, shards, stage: Some(stage) })
    }
}
