//! RMSNorm over rows; one token's is fused into the mat-vec that follows it, unless it ends a branch.

use super::{Result, Step, Tensor, ensure};
use crate::gpu::{Call, Cost, Grid, KernelSpec, View, params};

params!(NormParams { columns: u32, eps: f32, x_stride: u32, first: u32, rows: u32, scale: f32, first_group: u32 });

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
        self.norm_into(x, norm, &y, None)?;
        Ok(y)
    }

    /// As [`Step::rms_norm`], of the first columns of each row of x, as many as the norm has.
    pub fn rms_norm_part(&mut self, x: &Tensor, norm: &Norm) -> Result<Tensor> {
        let y = self.tensor("normed", norm.columns)?;
        let y = Tensor { rows: x.rows, ..y };
        self.norm_into(x, norm, &y, None)?;
        Ok(y)
    }

    /// y += x / sqrt(mean(x^2) + eps) * weight, row by row: the norm at the end of a branch.
    pub fn add_norm(&mut self, y: &Tensor, x: &Tensor, norm: &Norm) -> Result<()> {
        self.add_norm_scaled(y, x, norm, 1.0)
    }

    /// As [`Step::add_norm`], with a factor on the sum: y = scale (y + norm(x)).
    pub fn add_norm_scaled(&mut self, y: &Tensor, x: &Tensor, norm: &Norm, scale: f32) -> Result<()> {
        ensure(y.first_row == 0 && (y.rows, y.columns) == (x.rows, x.columns), "add_norm", || {
            format!("x is [{}, {}], y [{}, {}]", x.rows, x.columns, y.rows, y.columns)
        })?;
        self.norm_into(x, norm, y, Some(scale))
    }

    /// Of so many rows. All wait for that of a single one, which has no other work to hide its waits.
    pub(super) fn normalising(&self, rows: usize) -> KernelSpec {
        self.reducing("rms_norm", if rows == 1 { self.tuning.wide } else { self.tuning.row })
    }

    fn norm_into(&mut self, x: &Tensor, norm: &Norm, y: &Tensor, add: Option<f32>) -> Result<()> {
        let fours = x.columns.is_multiple_of(4) && y.columns.is_multiple_of(4);
        ensure(x.first_row == 0 && x.columns >= y.columns && y.columns == norm.columns && fours, "rms_norm", || {
            let columns = [x.columns, y.columns, norm.columns];
            format!("x, y and the norm have {columns:?} columns (a multiple of 4 is needed)")
        })?;
        self.recorder.call(Call {
            spec: self.normalising(x.rows).flag("RESIDUAL", add.is_some()),
            bind: &[("x", &x.view), ("y", &y.view), ("norm", &norm.weight)],
            params: NormParams {
                columns: y.columns as u32,
                eps: norm.eps,
                x_stride: (x.columns / 4) as u32,
                first: 0,
                rows: x.rows as u32,
                scale: add.unwrap_or(1.0),
                ..Default::default()
            },
            grid: Grid::linear(x.rows as u64, 1),
            cost: Cost { other_bytes: (x.rows * y.columns * 8) as u64, ..Cost::default() },
        })?;
        Ok(())
    }
}
