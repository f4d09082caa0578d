//! Rows of the embedding table.

use super::{Matrix, Result, Step, Tensor, ensure};
use crate::gpu::{Call, Cost, Grid, KernelSpec, params};

params!(EmbedParams {
    columns: u32,
    row_words: u32,
    tail_words: u32,
    first_row: u32,
    rows: u32,
    scale: f32,
    first_group: u32
});

impl Step<'_> {
    /// `x[t] = scale * table[token t]`, x [tokens, columns].
    pub fn embed(&mut self, table: &Matrix, scale: f32) -> Result<Tensor> {
        self.embed_into("x", table, scale)
    }

    /// As [`Step::embed`], into an activation of another name.
    pub fn embed_into(&mut self, name: &'static str, table: &Matrix, scale: f32) -> Result<Tensor> {
        ensure(table.columns.is_multiple_of(4), "embed", || format!("{} columns are no multiple of 4", table.columns))?;
        let x = self.tensor(name, table.columns)?;
        let tokens = self.token_ids.clone();
        for (stage, shard) in table.staged() {
            stage.into_iter().for_each(|stage| self.recorder.enter_layer(stage));
            self.recorder.call(Call {
                spec: KernelSpec::new("embed").format(table.format).size("WG", self.tuning.row),
                bind: &[("weights", &shard.view), ("tokens", &tokens), ("x", &x.view)],
                params: EmbedParams {
                    columns: table.columns as u32,
                    row_words: table.row_words(),
                    tail_words: table.tail_words(),
                    first_row: shard.first as u32,
                    rows: shard.count as u32,
                    scale,
                    ..Default::default()
                },
                grid: Grid::linear(self.tokens as u64, 1),
                cost: Cost {
                    weight_bytes: (table.format.device_row_bytes(table.columns) * self.tokens) as u64,
                    other_bytes: (x.columns * self.tokens * 4) as u64,
                    ..Cost::default()
                },
            })?;
        }
        Ok(x)
    }
}
