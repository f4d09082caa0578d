//! Kernels of products in tiles, rows of a matrix by tokens.

use super::{Arithmetic, Ground, MatmulTile, MatrixTile, Product, Step, Tuning};
use crate::formats::Format;
use crate::gpu::{Grid, KernelSpec, Tier};

/// A kernel that lacks its format and its flags, and the tile that one of its workgroups computes.
pub(super) struct Tiled {
    pub spec: KernelSpec,
    /// Rows.
    pub bm: u32,
    /// Tokens.
    pub bn: u32,
    pub arithmetic: Arithmetic,
}

impl Tiled {
    pub fn registers(t: &Tuning) -> Tiled {
        let MatmulTile { bm, bn, tm, tn, runs } = t.matmul;
        let spec = KernelSpec::new("matmul").size("BM", bm).size("BN", bn).size("TM", tm).size("TN", tn);
        Tiled { spec: spec.size("RUNS", runs), bm, bn, arithmetic: Arithmetic::F32 }
    }

    /// Of 2 to 8 tokens, whose reductions lack their flag.
    pub fn batch(t: &Tuning, tokens: usize) -> Tiled {
        let ((wg, bm), bn) = (t.batch, tokens.next_power_of_two() as u32);
        let spec = KernelSpec::new("matvec_batch").size("WG", wg).size("BM", bm).size("BN", bn);
        Tiled { spec, bm, bn, arithmetic: Arithmetic::F32 }
    }

    /// Of cooperative matrices of `side` x `side`, where subgroups have at most `subgroup` invocations.
    pub fn matrices(t: &Tuning, side: u32, subgroup: u32) -> Tiled {
        let MatrixTile { strips, fragments, runs, subgroups } = t.matrix;
        let (bm, bn) = (strips * side, fragments * side);
        let spec = KernelSpec::new("matmul_matrix").flag("MATRIX", true).flag("SIDE_16", side == 16);
        let spec = spec.size("WG", subgroups * subgroup).size("SUBGROUPS", subgroups);
        let spec = spec.size("BM", bm).size("BN", bn).size("RUNS", runs);
        Tiled { spec, bm, bn, arithmetic: Arithmetic::Matrix }
    }

    /// `outputs` of `token_tiles` tiles; of `swiglu` two rows make an output.
    pub fn grid(&self, outputs: usize, swiglu: bool, token_tiles: usize) -> Grid {
        let rows = if swiglu { self.bm / 2 } else { self.bm };
        Grid::linear(outputs.div_ceil(rows as usize) as u64, token_tiles as u64)
    }
}

impl Step<'_> {
    /// The kernel for a product of several tokens with a matrix [rows, columns].
    pub(super) fn tiled(&self, product: Product, tokens: usize, format: Format, shape: [usize; 2]) -> Tiled {
        self.tiled_in(self.arithmetic(product, format, shape), product, tokens, shape)
    }

    /// As [`Step::tiled`], of inputs that nothing rounds to integers.
    pub(super) fn tiled_unrounded(&self, tokens: usize, format: Format, shape: [usize; 2]) -> Tiled {
        let product = Product::of(tokens);
        let arithmetic = match self.arithmetic(product, format, shape) {
            Arithmetic::Dot => {
                let below = Ground { tier: Tier::F16, ..self.ground };
                below.choose(product, format, shape).arithmetic
            }
            other => other,
        };
        self.tiled_in(arithmetic, product, tokens, shape)
    }

    fn tiled_in(&self, arithmetic: Arithmetic, product: Product, tokens: usize, shape: [usize; 2]) -> Tiled {
        let caps = self.recorder.gpu().caps();
        if (product, arithmetic) == (Product::Batch, Arithmetic::F32) {
            let batch = Tiled::batch(&self.tuning, tokens);
            let spec = batch.spec.flag("SUBGROUP", self.ground.tier >= Tier::Subgroup);
            return Tiled { spec: spec.flag("RAGGED", !shape[1].is_multiple_of(16)), ..batch };
        }
        match (arithmetic, caps.matrix) {
            (Arithmetic::Matrix, Some(side)) => Tiled::matrices(&self.tuning, side, caps.subgroup.1),
            (Arithmetic::Matrix, None) => Tiled::registers(&self.tuning),
            (arithmetic, _) => {
                let plain = Tiled::registers(&self.tuning);
                Tiled { spec: arithmetic.flagged(plain.spec), arithmetic, ..plain }
            }
        }
    }
}
