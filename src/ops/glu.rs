//! A gate on an input that is there already, and the cap of logits: element by element.

use super::{Activation, Result, Step, Tensor, ensure};
use crate::gpu::{Call, Cost, Grid, KernelSpec, params};

params!(GluParams { tokens: u32, columns: u32, stride: u32, at: u32, limit: f32, first_group: u32 });
params!(SoftcapParams { count: u32, cap: f32, first_group: u32 });

impl Step<'_> {
    /// y = activation(y) * u, y [tokens, columns]; u are columns of a wider tensor [tokens, ...], from `at` on.
    pub fn glu(&mut self, y: &Tensor, u: &Tensor, at: usize, activation: Activation) -> Result<()> {
        ensure(at + y.columns <= u.columns && y.rows == u.rows, "glu", || {
            format!("y [{}, {}], columns from {at} of [{}, {}]", y.rows, y.columns, u.rows, u.columns)
        })?;
        ensure(y.first_row == 0 && u.first_row == 0, "glu", || "rows that start late".into())?;
        let wg = self.tuning.wide;
        let count = y.rows * y.columns;
        self.recorder.call(Call {
            spec: activation.flags(KernelSpec::new("glu").size("WG", wg)),
            bind: &[("u", &u.view), ("y", &y.view)],
            params: GluParams {
                tokens: y.rows as u32,
                columns: y.columns as u32,
                stride: u.columns as u32,
                at: at as u32,
                limit: activation.limit(),
                ..Default::default()
            },
            grid: Grid::linear(count.div_ceil(wg as usize) as u64, 1),
            cost: Cost { other_bytes: (12 * count) as u64, ..Cost::default() },
        })?;
        Ok(())
    }

    /// y = cap * tanh(y / cap).
    pub fn softcap(&mut self, y: &Tensor, cap: f32) -> Result<()> {
        ensure(cap > 0.0 && y.first_row == 0, "softcap", || format!("a cap of {cap}, from row {}", y.first_row))?;
        let (wg, count) = (self.tuning.wide, y.rows * y.columns);
        self.recorder.call(Call {
            spec: KernelSpec::new("softcap").size("WG", wg),
            bind: &[("y", &y.view)],
            params: SoftcapParams { count: count as u32, cap, ..Default::default() },
            grid: Grid::linear(count.div_ceil(wg as usize) as u64, 1),
            cost: Cost { other_bytes: (8 * count) as u64, ..Cost::default() },
        })?;
        Ok(())
    }
}
