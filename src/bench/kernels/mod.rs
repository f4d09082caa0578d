//! Kernels at the shapes of real models, each held against its twin, then timed against the device's limits.

mod prepare;
mod presets;
mod weights;

pub use presets::Selection;

use super::{Result, Row, Summary};
use crate::formats::Format;
use crate::gpu::{DeviceClass, DeviceProfile, Gpu, Tier, Timing};
use crate::ops::Arithmetic;
use prepare::Prepared;
use serde::Serialize;
use std::time::{Duration, Instant};

/// One operator at one shape.
#[derive(Clone, Debug, PartialEq)]
pub enum Case {
    /// y += W x: a mat-vec of one token, a matmul of more.
    Linear { format: Format, rows: usize, columns: usize, tokens: usize },
    /// The gated MLP of `used` of `experts` experts for one token: two mat-vecs.
    Experts { format: Format, experts: usize, used: usize, ff: usize, hidden: usize },
    /// Causal attention of `tokens` tokens after `before` cached ones, keys and values in f16.
    Attention { heads: usize, kv_heads: usize, head_dim: usize, tokens: usize, before: usize },
}

impl Case {
    /// As `--op` names it.
    pub fn op(&self) -> &'static str {
        match self {
            Case::Linear { tokens: 1, .. } => "matvec",
            Case::Linear { .. } => "matmul",
            Case::Experts { .. } => "experts",
            Case::Attention { tokens: 1, .. } => "decode",
            Case::Attention { .. } => "prefill",
        }
    }

    /// Operator, format and shape: `matvec q4_k 4096x4096`, `experts q4_k 8 of 128 768x2048`.
    pub fn name(&self) -> String {
        let op = self.op();
        match self {
            Case::Linear { format, rows, columns, tokens: 1 } => format!("{op} {format} {rows}x{columns}"),
            Case::Linear { format, rows, columns, tokens } => format!("{op} {format} {rows}x{columns} by {tokens}"),
            Case::Experts { format, experts, used, ff, hidden } => {
                format!("{op} {format} {used} of {experts} {ff}x{hidden}")
            }
            Case::Attention { heads, kv_heads, head_dim, tokens: 1, before } => {
                format!("{op} f16 {heads}/{kv_heads}x{head_dim} on {}", before + 1)
            }
            Case::Attention { heads, kv_heads, head_dim, tokens, .. } => {
                format!("{op} f16 {heads}/{kv_heads}x{head_dim} by {tokens}")
            }
        }
    }

    /// Bytes of weights or cache, and all bytes, that must be read and written at least once; weights as in a file.
    pub fn bytes(&self) -> (u64, u64) {
        let (weights, others) = match *self {
            Case::Linear { format, rows, columns, tokens } => {
                (rows * format.row_bytes(columns), tokens * (columns + 2 * rows) * 4)
            }
            Case::Experts { format, used, ff, hidden, .. } => {
                let expert = 2 * ff * format.row_bytes(hidden) + hidden * format.row_bytes(ff);
                (used * expert, (3 * hidden + 2 * used * ff) * 4)
            }
            Case::Attention { heads, kv_heads, head_dim, tokens, before } => {
                (2 * (before + tokens) * kv_heads * head_dim * 2, 2 * tokens * heads * head_dim * 4)
            }
        };
        (weights as u64, (weights + others) as u64)
    }

    /// Operations, a multiply-add being two.
    pub fn flops(&self) -> u64 {
        (match *self {
            Case::Linear { rows, columns, tokens, .. } => 2 * rows * columns * tokens,
            Case::Experts { used, ff, hidden, .. } => 6 * used * ff * hidden,
            Case::Attention { heads, head_dim, tokens, before, .. } => {
                4 * heads * head_dim * (tokens * before + tokens * (tokens + 1) / 2)
            }
        }) as u64
    }

    fn stack_bytes(&self) -> u64 {
        match self {
            Case::Experts { experts, used, .. } => self.bytes().0 / *used as u64 * *experts as u64,
            _ => 0,
        }
    }

    /// The least seconds at a device's limits.
    fn bound(&self, limits: &DeviceProfile) -> (f64, Limit) {
        let moving = self.bytes().1 as f64 / limits.stream_bytes_per_second;
        let computing = self.flops() as f64 / limits.flops_per_second;
        if moving >= computing { (moving, Limit::Bandwidth) } else { (computing, Limit::Flops) }
    }
}

/// What bounds a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    Bandwidth,
    Flops,
}

/// What one kernel reaches.
#[derive(Clone, Debug, Serialize)]
pub struct KernelRow {
    /// Seconds of one run on the device.
    #[serde(flatten)]
    pub row: Row,
    pub op: &'static str,
    pub tier: String,
    /// Of its matrix products.
    pub arithmetic: String,
    /// What must be moved and computed at least.
    pub bytes: u64,
    pub flops: u64,
    pub bytes_per_second: f64,
    pub flops_per_second: f64,
    pub limit: Limit,
    pub fraction_of_limit: f64,
    /// Inputs that were rotated.
    pub copies: usize,
    /// Against the twin, over a sample of the outputs.
    pub nmse: f64,
}

/// Measures kernels.
pub struct KernelBench<'g> {
    pub gpu: &'g Gpu,
    pub tier: Tier,
    /// The arithmetic of products, wherever there is a kernel of it; else what the limits choose.
    pub force: Option<Arithmetic>,
    pub limits: DeviceProfile,
    /// Bytes of weights, or of keys and values, in all copies of one case.
    pub memory: u64,
    /// Spent on timing one case, after it was prepared.
    pub time: Duration,
}

const MOST_COPIES: u64 = 64;
/// Of samples of one case.
const LEAST_SAMPLES: usize = 5;
const MOST_SAMPLES: usize = 2000;
/// Estimated seconds of one submit, for kernels at a tenth of the limit.
const MOST_SUBMIT: f64 = 1.0;

impl KernelBench<'_> {
    /// Memory that cases may take where nobody says.
    pub fn default_memory(class: DeviceClass) -> u64 {
        match class {
            DeviceClass::Gpu => 512 << 20,
            DeviceClass::Cpu => 48 << 20,
        }
    }

    fn copies_by_time(&self, case: &Case) -> usize {
        (MOST_SUBMIT / (10.0 * case.bound(&self.limits).0)).clamp(1.0, MOST_COPIES as f64) as usize
    }

    fn copies(&self, case: &Case) -> usize {
        let fit = self.memory / case.bytes().0.max(1);
        (fit.clamp(1, MOST_COPIES) as usize).min(self.copies_by_time(case))
    }

    /// A stack of experts that is too large for the memory keeps as many as fit, at least those that are used.
    pub fn fit(&self, case: Case) -> Case {
        match case {
            Case::Experts { format, experts, used, ff, hidden } if case.stack_bytes() > self.memory => {
                let each = case.stack_bytes() / experts as u64;
                let experts = (self.memory / each) as usize / used * used;
                Case::Experts { format, experts: experts.max(used), used, ff, hidden }
            }
            case => case,
        }
    }

    /// Checks and times one case.
    ///
    /// # Errors
    /// A result that is not the twin's; shapes that no kernel takes; no memory.
    pub fn run(&self, case: &Case) -> Result<KernelRow> {
        let prepared = match *case {
            Case::Linear { format, rows, columns, tokens } => self.linear(case, format, rows, columns, tokens)?,
            Case::Experts { format, experts, used, ff, hidden } => {
                self.experts(case, format, [experts, used, ff, hidden])?
            }
            Case::Attention { heads, kv_heads, head_dim, tokens, before } => {
                self.attention(case, [heads, kv_heads, head_dim], tokens, before)?
            }
        };
        let figure = Summary::of(&self.time(&prepared)?);
        let ((bound, limit), (_, bytes), flops) = (case.bound(&self.limits), case.bytes(), case.flops());
        Ok(KernelRow {
            row: Row { name: case.name(), unit: "s".into(), figure },
            op: case.op(),
            tier: self.tier.to_string(),
            arithmetic: prepared.arithmetic().to_string(),
            bytes,
            flops,
            bytes_per_second: bytes as f64 / figure.median,
            flops_per_second: flops as f64 / figure.median,
            limit,
            fraction_of_limit: bound / figure.median,
            copies: prepared.copies,
            nmse: prepared.nmse,
        })
    }

    /// Seconds of single runs; the first round warms up.
    fn time(&self, prepared: &Prepared) -> Result<Vec<f64>> {
        let timing = self.gpu.timing();
        if timing == Timing::Slope {
            return self.slopes(prepared);
        }
        let Prepared { recording, copies, .. } = prepared;
        let dispatches = recording.dispatches.len() / copies;
        let round = || -> Result<Vec<f64>> {
            let times = self.gpu.blocking_profile(recording, timing)?;
            Ok(times.chunks_exact(dispatches).map(|d| d.iter().map(|t| t.time.as_secs_f64()).sum()).collect())
        };
        round()?;
        let (start, mut samples) = (Instant::now(), Vec::new());
        while samples.len() < LEAST_SAMPLES || (start.elapsed() < self.time && samples.len() < MOST_SAMPLES) {
            samples.extend(round()?);
        }
        // What the clock could not tell from nothing counts as its step.
        samples.iter_mut().for_each(|s| *s = s.max(1e-9));
        Ok(samples)
    }

    /// Wall time of 2n rounds less that of n, over n: all copies in turn, so that none stays cached.
    fn slopes(&self, Prepared { recording, copies, .. }: &Prepared) -> Result<Vec<f64>> {
        let timed = |rounds: usize| -> Result<f64> {
            self.gpu.blocking_wait()?;
            let start = Instant::now();
            for _ in 0..rounds {
                self.gpu.submit(recording, 0..recording.dispatches.len(), &[])?;
            }
            self.gpu.blocking_wait()?;
            Ok(start.elapsed().as_secs_f64())
        };
        let mut rounds = 1;
        while timed(rounds)? < self.time.as_secs_f64() / 16.0 && rounds < 1 << 12 {
            rounds *= 2;
        }
        let slope = |_| -> Result<f64> {
            let (single, double) = (timed(rounds)?, timed(2 * rounds)?);
            let difference = if double > single { double - single } else { double / 2.0 };
            Ok(difference / (rounds * copies) as f64)
        };
        (0..LEAST_SAMPLES).map(slope).collect()
    }
}
