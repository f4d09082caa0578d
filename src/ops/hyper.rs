//! Hyper-connections (arXiv 2409.19606), as DeepSeek-V4 has them: four residual streams in place of one. A half of a layer
//! reads a weighted sum of them, and its result joins all four while they mix with each other.

use super::{Result, Step, Tensor, ensure};
use crate::gpu::{Call, Cost, Grid, KernelSpec, View, params};

params!(HyperMixParams { tokens: u32, quads: u32, slices: u32, first_z: u32 });
params!(HyperReadParams { quads: u32, slices: u32, eps: f32, mix_eps: f32, iterations: u32, first_z: u32 });

/// Residual streams.
pub const STREAMS: usize = 4;

/// How the streams mix before one half of a layer, or before the output head.
pub struct HyperConnection {
    /// f32 [rows, 4 * hidden], over the norm of the flat streams. 24 rows: into the half, out of it, between the streams;
    /// of the head the first 4.
    pub matrix: View,
    /// f32 `[rows]`, added to the products.
    pub base: View,
    /// f32 `[3]`, factors of the three parts' products; of the head `[1]`.
    pub scale: View,
    pub hidden: usize,
    pub head: bool,
    /// Of the norm.
    pub norm_eps: f32,
    /// Of the weights and of their sums.
    pub eps: f32,
    /// Of Sinkhorn's normalisation; at least 1.
    pub iterations: usize,
}

impl HyperConnection {
    /// Rows of the matrix.
    pub fn rows(head: bool) -> usize {
        if head { STREAMS } else { STREAMS * (STREAMS + 2) }
    }
}

/// What comes to the streams, [tokens, hidden].
#[derive(Clone, Copy)]
pub enum Joining<'a> {
    /// Of which the streams are copies: they begin here.
    Embedding(&'a Tensor),
    /// The result of the half that read the streams last.
    Branch(&'a Tensor),
}

/// Columns that share the sums of a slice are as many as fit an invocation each, in quads.
const MOST_WG: u32 = 32;
/// Tokens that share a reading of the matrix in prefill.
const TOKENS: usize = 2;

impl Step<'_> {
    /// Moves the streams on, and gives what the next half reads of them, [tokens, hidden].
    pub fn hyper_connection(&mut self, joining: Joining, hc: &HyperConnection) -> Result<Tensor> {
        let (Joining::Embedding(x) | Joining::Branch(x)) = joining;
        let (hidden, rows) = (hc.hidden, HyperConnection::rows(hc.head));
        ensure(hidden.is_multiple_of(4) && (x.rows, x.columns) == (self.tokens, hidden), "hyper", || {
            format!("x is [{}, {}], of {} tokens in streams of {hidden}", x.rows, x.columns, self.tokens)
        })?;
        let sizes = [hc.matrix.size, hc.base.size, hc.scale.size];
        let floats = [rows * STREAMS * hidden, rows, if hc.head { 1 } else { 3 }];
        ensure(sizes.iter().zip(floats).all(|(size, floats)| *size >= 4 * floats as u64), "hyper", || {
            format!("matrix, base and scale of {sizes:?} bytes for {floats:?} floats")
        })?;
        ensure(hc.iterations > 0, "hyper", || "no iteration".into())?;
        let streams = self.tensor("streams", STREAMS * hidden)?;
        let mix = self.tensor("stream mix", STREAMS * (STREAMS + 1))?;
        let wg = self.tuning.row.min(MOST_WG);
        let slices = (hidden / 4).div_ceil(wg as usize);
        let partials = self.tensor("stream sums", slices * (rows + 1))?;
        self.hyper_mix(joining, hc, [&streams, &mix, &partials], (wg, slices))?;
        self.hyper_read(hc, [&streams, &mix, &partials], slices)
    }

    fn hyper_mix(
        &mut self,
        joining: Joining,
        hc: &HyperConnection,
        [streams, mix, partials]: [&Tensor; 3],
        (wg, slices): (u32, usize),
    ) -> Result<()> {
        let (x, start) = match joining {
            Joining::Embedding(x) => (x, true),
            Joining::Branch(x) => (x, false),
        };
        let rows = HyperConnection::rows(hc.head);
        let shared = if self.tokens == 1 { 1 } else { TOKENS };
        let mut bind =
            vec![("x", &x.view), ("streams", &streams.view), ("matrix", &hc.matrix), ("partials", &partials.view)];
        bind.extend((!start).then_some(("mix", &mix.view)));
        self.recorder.call(Call {
            spec: self
                .reducing("hyper_mix", wg)
                .size("ROWS", rows as u32)
                .size("TOKENS", shared as u32)
                .flag("START", start),
            bind: &bind,
            params: HyperMixParams {
                tokens: self.tokens as u32,
                quads: (hc.hidden / 4) as u32,
                slices: slices as u32,
                ..Default::default()
            },
            grid: Grid([slices as u32, 1, self.tokens.div_ceil(shared) as u32]),
            cost: Cost {
                weight_bytes: (4 * rows * STREAMS * hc.hidden) as u64,
                other_bytes: (4 * self.tokens * (2 * STREAMS + 1) * hc.hidden) as u64,
                flops: (2 * self.tokens * (rows + STREAMS) * STREAMS * hc.hidden) as u64,
                ..Cost::default()
            },
        })?;
        Ok(())
    }

    fn hyper_read(
        &mut self,
        hc: &HyperConnection,
        [streams, mix, partials]: [&Tensor; 3],
        slices: usize,
    ) -> Result<Tensor> {
        let x = self.tensor("of streams", hc.hidden)?;
        let wg = self.tuning.row;
        let mut bind = vec![
            ("streams", &streams.view),
            ("partials", &partials.view),
            ("base", &hc.base),
            ("scale", &hc.scale),
            ("x", &x.view),
        ];
        bind.extend((!hc.head).then_some(("mix", &mix.view)));
        self.recorder.call(Call {
            spec: KernelSpec::new("hyper_read").size("WG", wg).flag("HEAD", hc.head),
            bind: &bind,
            params: HyperReadParams {
                quads: (hc.hidden / 4) as u32,
                slices: slices as u32,
                eps: hc.norm_eps,
                mix_eps: hc.eps,
                iterations: hc.iterations as u32,
                ..Default::default()
            },
            grid: Grid([(hc.hidden / 4).div_ceil(wg as usize) as u32, 1, self.tokens as u32]),
            cost: Cost { other_bytes: (4 * self.tokens * (STREAMS + 1) * hc.hidden) as u64, ..Cost::default() },
        })?;
        Ok(x)
    }
}
