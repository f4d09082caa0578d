//! RMSNorm over rows; one token's is fused into the mat-vec that follows it, unless it ends a branch.

use super::{Result, Step, Tensor, ensure};
use crate::gpu::{Call, Cost, Grid, View, params};

params!(NormParams { columns: u32, eps: f32, first: u32 });

/// An RMSNorm's weights, `f32 [columns]`, and its epsilon.
pub struct Norm {
    pub weight: View,
    pub columns: usize,
    pub eps: f32,
}

impl Step<'_> {
    /// y = x / sqrt(mean(x^2) + eps) * weight, row by row.
    pub fn rms_norm(&mut self, x: &Tensor, norm: &Norm) -> Result<Tensor> {
        let y = self.tensor("normed", x.columns)?;
        let y = Tensor { rows: x.rows, ..y };
        self.norm_into(x, norm, &y, false)?;
        Ok(y)
    }

    /// y += x / sqrt(mean(x^2) + eps) * weight, row by row: the norm at the end of a branch.
    pub fn add_norm(&mut self, y: &Tensor, x: &Tensor, norm: &Norm) -> Result<()> {
        ensure(y.first_row == 0 && (y.rows, y.columns) == (x.rows, x.columns), "add_norm", || {
            format!("x is [{}, {}], y [{}, {}]", x.rows, x.columns, y.rows, y.columns)
        })?;
        self.norm_into(x, norm, y, true)
    }

    fn norm_into(&mut self, x: &Tensor, norm: &Norm, y: &Tensor, add: bool) -> Result<()> {
        ensure(x.first_row == 0 && x.columns == norm.columns && x.columns.is_multiple_of(4), "rms_norm", || {
            format!("x has {} columns (a multiple of 4 is needed), the norm {}", x.columns, norm.columns)
        })?;
        self.recorder.call(Call {
            spec: self.reducing("rms_norm", self.tuning.row).flag("RESIDUAL", add),
            bind: &[("x", &x.view), ("y", &y.view), ("norm", &norm.weight)],
            params: NormParams { columns: x.columns as u32, eps: norm.eps, first: 0 },
            grid: Grid::linear(x.rows as u64, 1),
            cost: Cost { other_bytes: (x.rows * x.columns * 8) as u64, ..Cost::default() },
        })?;
        Ok(())
    }
}
