//! What matrix products read: activations and their norm, made into what each arithmetic takes once, however many products
//! read it.

use super::norm::NormParams;
use super::{Arithmetic, Norm, Result, Step, Tensor, ensure};
use crate::gpu::{Call, Cost, Grid, KernelSpec, View, params};

params!(QuantiseParams { blocks: u32, first: u32, first_group: u32 });

/// Activations that are rounded to i8 share a scale in blocks of this many.
pub const BLOCK: usize = 32;
/// Words of such a block: 8 of i8, the scale, the scale times the sum of either half, one unused.
pub const BLOCK_WORDS: usize = 12;

/// Bytes of `values` rounded.
pub fn rounded_bytes(values: usize) -> u64 {
    (values.div_ceil(BLOCK) * BLOCK_WORDS * 4) as u64
}

/// norm(x), or x.
pub(super) struct Input<'n> {
    pub x: Tensor,
    pub norm: Option<&'n Norm>,
    normed: Option<Tensor>,
    quantised: Option<View>,
}

impl<'n> Input<'n> {
    pub fn new(x: &Tensor, norm: Option<&'n Norm>) -> Self {
        Input { x: x.clone(), norm, normed: None, quantised: None }
    }
}

impl Step<'_> {
    /// x rounded to i8, u32 [rows, columns / 32, 12].
    pub fn quantise(&mut self, x: &Tensor) -> Result<View> {
        self.quantised("quantised", &mut Input::new(x, None))
    }

    /// As a matmul in an arithmetic reads it.
    pub(super) fn read_by(&mut self, name: &'static str, input: &mut Input, arithmetic: Arithmetic) -> Result<View> {
        match arithmetic {
            Arithmetic::Dot => self.quantised(name, input),
            Arithmetic::F32 | Arithmetic::F16 | Arithmetic::Matrix => Ok(self.normed(input)?.view),
        }
    }

    /// In f32, f32 [rows, columns].
    pub(super) fn normed(&mut self, input: &mut Input) -> Result<Tensor> {
        let Some(norm) = input.norm else { return Ok(input.x.clone()) };
        if input.normed.is_none() {
            input.normed = Some(self.rms_norm(&input.x, norm)?);
        }
        Ok(input.normed.clone().expect("made above"))
    }

    /// Rounded to i8, u32 [rows, columns / 32, 12], in a scratch buffer `name`. A norm is applied in the same dispatch.
    pub(super) fn quantised(&mut self, name: &'static str, input: &mut Input) -> Result<View> {
        if let Some(view) = &input.quantised {
            return Ok(view.clone());
        }
        let x = &input.x;
        ensure(x.columns.is_multiple_of(BLOCK), "quantise", || {
            format!("{} columns: blocks of {BLOCK} are rounded together", x.columns)
        })?;
        let blocks = x.rows * x.columns / BLOCK;
        let most = self.scratch.max_tokens * x.rows.div_ceil(self.tokens) * x.columns;
        let y = self.scratch.bytes(self.recorder.gpu(), name, rounded_bytes(most))?;
        let first = (x.first_row * x.columns / 4) as u32;
        let cost = Cost { other_bytes: (blocks * (BLOCK + BLOCK_WORDS) * 4) as u64, ..Cost::default() };
        match input.norm {
            Some(norm) => {
                ensure(x.columns == norm.columns, "rms_norm", || {
                    format!("x has {} columns, the norm {}", x.columns, norm.columns)
                })?;
                self.recorder.call(Call {
                    spec: self.normalising(input.x.rows).flag("QUANTISE", true),
                    bind: &[("x", &x.view), ("y", &y), ("norm", &norm.weight)],
                    params: NormParams {
                        columns: x.columns as u32,
                        eps: norm.eps,
                        x_stride: (x.columns / 4) as u32,
                        first,
                        rows: x.rows as u32,
                        scale: 1.0,
                        ..Default::default()
                    },
                    grid: Grid::linear(x.rows as u64, 1),
                    cost,
                })?;
            }
            None => {
                let wg = self.tuning.row;
                self.recorder.call(Call {
                    spec: KernelSpec::new("quantise").size("WG", wg),
                    bind: &[("x", &x.view), ("y", &y)],
                    params: QuantiseParams { blocks: blocks as u32, first, ..Default::default() },
                    grid: Grid::linear(blocks.div_ceil(wg as usize) as u64, 1),
                    cost,
                })?;
            }
        }
        input.quantised = Some(y.clone());
        Ok(y)
    }
}
