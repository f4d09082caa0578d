//! Sigmoid gates: of attention's output, of a shared expert.

use super::{Result, Step, Tensor, ensure};
use crate::gpu::{Call, Cost, Grid, KernelSpec, params};

params!(GateParams { tokens: u32, columns: u32, stride: u32, at: u32, share: u32, first_group: u32 });

impl Step<'_> {
    /// y *= sigmoid(g), y [tokens, columns]: each run of `share` columns has one gate, the first of a row at column `at`
    /// of g [tokens, ...].
    pub fn gate(&mut self, y: &Tensor, g: &Tensor, at: usize, share: usize) -> Result<()> {
        ensure(share > 0 && y.columns.is_multiple_of(share) && at + y.columns / share <= g.columns, "gate", || {
            format!("{} columns, {share} a gate, with gates from {at} of {}", y.columns, g.columns)
        })?;
        ensure(y.first_row == 0 && g.first_row == 0 && (y.rows, g.rows) == (self.tokens, self.tokens), "gate", || {
            format!("{} rows, gates of {}, of {} tokens", y.rows, g.rows, self.tokens)
        })?;
        let wg = self.tuning.wide;
        self.recorder.call(Call {
            spec: KernelSpec::new("gate").size("WG", wg),
            bind: &[("g", &g.view), ("y", &y.view)],
            params: GateParams {
                tokens: self.tokens as u32,
                columns: y.columns as u32,
                stride: g.columns as u32,
                at: at as u32,
                share: share as u32,
                ..Default::default()
            },
            grid: Grid::linear((y.rows * y.columns).div_ceil(wg as usize) as u64, 1),
            cost: Cost { other_bytes: (4 * y.rows * (2 * y.columns + y.columns / share)) as u64, ..Cost::default() },
        })?;
        Ok(())
    }
}
