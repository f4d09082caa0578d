//! Sampling on the GPU: the token is picked, appended to the history, and the state advanced, without the host.

use super::{Result, Step, Tensor, ensure};
use crate::gpu::{Call, Cost, Gpu, Grid, KernelSpec, View, params};

params!(SliceParams { vocabulary: u32, tokens: u32, base: u32 });
params!(SampleParams { vocabulary: u32, tokens: u32 });

/// Logits a workgroup sorts.
const SLICE: usize = 1024;

/// What the two halves of sampling pass on.
pub struct SampleBuffers {
    sorted: View,
    mass: View,
}

/// Bytes of [`SampleBuffers`].
pub fn sample_bytes(vocabulary: usize) -> u64 {
    2 * (vocabulary.div_ceil(SLICE) * SLICE * 8) as u64
}

impl SampleBuffers {
    pub fn new(gpu: &Gpu, vocabulary: usize) -> Result<Self> {
        let bytes = sample_bytes(vocabulary) / 2;
        Ok(SampleBuffers { sorted: gpu.buffer("sorted logits", bytes)?, mass: gpu.buffer("mass", bytes)? })
    }
}

impl Step<'_> {
    /// Samples from the last row of `logits` [rows, vocabulary] as the state says, and ends the step.
    pub fn sample(&mut self, logits: &Tensor, buffers: &SampleBuffers) -> Result<()> {
        let vocabulary = logits.columns;
        ensure(
            vocabulary > 0 && logits.rows > 0 && sample_bytes(vocabulary) / 2 <= buffers.sorted.size,
            "sample",
            || format!("[{}, {vocabulary}] logits, room to sort {}", logits.rows, buffers.sorted.size / 8),
        )?;
        let slices = vocabulary.div_ceil(SLICE);
        let tokens = self.token_ids.clone();
        self.recorder.call(Call {
            spec: KernelSpec::new("sample_slices").size("WG", self.tuning.wide),
            bind: &[
                ("logits", &logits.view),
                ("tokens", &tokens),
                ("sorted", &buffers.sorted),
                ("mass", &buffers.mass),
            ],
            params: SliceParams {
                vocabulary: vocabulary as u32,
                tokens: self.tokens as u32,
                base: ((logits.rows - 1) * vocabulary) as u32,
            },
            grid: Grid::linear(slices as u64, 1),
            cost: Cost { other_bytes: (vocabulary * 4) as u64, ..Cost::default() },
        })?;
        self.recorder.call(Call {
            spec: KernelSpec::new("sample").size("WG", self.tuning.wide).flag("STATE_WRITE", true),
            bind: &[("sorted", &buffers.sorted), ("mass", &buffers.mass), ("tokens", &tokens)],
            params: SampleParams { vocabulary: vocabulary as u32, tokens: self.tokens as u32 },
            grid: Grid([1, 1, 1]),
            cost: Cost { other_bytes: (slices * 8) as u64, ..Cost::default() },
        })?;
        Ok(())
    }
}
