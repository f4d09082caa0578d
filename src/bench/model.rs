//! A model at work, as llama-bench measures it: prompts of random tokens, and tokens one after the other.

use super::{Random, Result, Row, Summary};
use crate::gpu::{Cost, DeviceProfile, DispatchTime, Timing};
use crate::session::{Sampling, Session, Stats};
use serde::Serialize;
use std::time::Duration;

/// A session to be measured against the device's limits.
pub struct ModelBench<'s> {
    session: &'s mut Session,
    /// Of each device that layers lie on: one waits for the other.
    limits: Vec<DeviceProfile>,
    /// Measured runs of each test; one before them is thrown away.
    repetitions: usize,
}

/// One test of a model.
#[derive(Clone, Debug, Serialize)]
pub struct ModelRow {
    /// Named as llama-bench does: `pp512`, `tg128`, `tg128 @ d4096`; in tokens a second.
    #[serde(flatten)]
    pub row: Row,
    pub tokens: usize,
    pub depth: usize,
    /// Seconds at the device's measured limits over the mean measured: `bound` says which limits.
    pub fraction_of_bound: f64,
    pub bound: &'static str,
    /// Of one step that decodes, or of the whole prompt.
    pub dispatches: usize,
    pub submits: f64,
    /// Host time of encoding, up to the driver's submit.
    pub host_microseconds: f64,
}

/// GPU time of all dispatches of one kernel in a step.
#[derive(Clone, Debug, Serialize)]
pub struct KernelTime {
    pub kernel: String,
    pub dispatches: usize,
    pub seconds: f64,
    pub bytes: u64,
    /// What moving its bytes or computing takes at the measured limits, over `seconds`.
    pub fraction_of_limit: f64,
}

/// All that one run of the benchmark found.
#[derive(Clone, Debug, Serialize)]
pub struct ModelReport {
    pub rows: Vec<ModelRow>,
    /// Of one decode step, the longest first.
    pub kernels: Vec<KernelTime>,
    pub timing: Timing,
}

impl<'s> ModelBench<'s> {
    pub fn new(session: &'s mut Session, limits: Vec<DeviceProfile>, repetitions: usize) -> Self {
        ModelBench { session, limits, repetitions: repetitions.max(1) }
    }

    /// Random tokens, the same every time.
    fn tokens(&self, count: usize) -> Vec<u32> {
        let mut random = Random::new(count as u64);
        let vocabulary = self.session.model().shape().vocabulary;
        (0..count).map(|_| random.below(vocabulary) as u32).collect()
    }

    /// Runs a prompt from what is cached and then takes `limit` tokens.
    fn generate(&mut self, prompt: &[u32], limit: usize) -> Result<Stats> {
        let mut generation = self.session.generate(prompt, &Sampling::greedy(), &[], limit)?;
        while generation.blocking_next()?.is_some() {}
        Ok(generation.stats())
    }

    fn repeat(&mut self, mut run: impl FnMut(&mut Self) -> Result<Run>) -> Result<Vec<Run>> {
        run(self)?;
        (0..self.repetitions).map(|_| run(self)).collect()
    }

    /// `pp`: `tokens` tokens processed after `depth` cached ones, until the token that follows them is on the host.
    /// Both together must fit in the context.
    pub fn prompt(&mut self, tokens: usize, depth: usize) -> Result<ModelRow> {
        let prompt = self.tokens(depth + tokens);
        let runs = self.repeat(|bench| {
            bench.session.clear();
            if depth > 0 {
                bench.generate(&prompt[..depth], 1)?;
            }
            let before = bench.encode_time();
            let stats = bench.generate(&prompt, 1)?;
            Ok(Run { time: stats.prefill, host: bench.encode_time() - before, submits: stats.prefill_submits as f64 })
        })?;
        let (bound, dispatches) = self.prompt_cost(tokens, depth)?;
        Ok(row("pp", tokens, depth, &runs, (bound, "flops"), dispatches))
    }

    fn encode_time(&self) -> Duration {
        self.session.model().devices().map(|(gpu, _)| gpu.encode_time()).sum()
    }

    /// Seconds of the operations of a prompt's steps, and their dispatches. Of a causal step a token sees half of the step on average.
    fn prompt_cost(&mut self, tokens: usize, depth: usize) -> Result<(f64, usize)> {
        let chunk = self.session.chunk();
        let (mut seconds, mut dispatches) = (0.0, 0);
        for start in (0..tokens).step_by(chunk) {
            let count = chunk.min(tokens - start);
            for (recording, limits) in self.session.step_recordings(count)?.zip(&self.limits) {
                let Cost { flops, position_flops, .. } = recording.cost();
                let flops = flops + position_flops * (depth + start + count / 2) as u64;
                seconds += flops as f64 / limits.flops_per_second;
                dispatches += recording.dispatches.len();
            }
        }
        Ok((seconds, dispatches))
    }

    /// `tg`: `tokens` tokens one after the other, after a prompt of `depth` tokens (at least one), from the moment at
    /// which the prompt's own token is on the host. All must fit in the context.
    pub fn tokens_one_by_one(&mut self, tokens: usize, depth: usize) -> Result<ModelRow> {
        let prompt = self.tokens(depth.max(1));
        let runs = self.repeat(|bench| {
            bench.session.clear();
            let stats = bench.generate(&prompt, tokens + 1)?;
            let steps = stats.decode_steps.max(1);
            let each = stats.decode / stats.decode_tokens.max(1) as u32;
            let submits = stats.decode_submits as f64 / steps as f64;
            Ok(Run { time: each * tokens as u32, host: stats.decode_host / steps as u32, submits })
        })?;
        let (mut step, mut dispatches) = (0.0, 0);
        for (recording, limits) in self.session.decode_recordings().zip(&self.limits) {
            let Cost { weight_bytes, position_bytes, .. } = recording.cost();
            let bytes = weight_bytes + position_bytes * (depth.max(1) + tokens / 2) as u64;
            step += bytes as f64 / limits.stream_bytes_per_second;
            step += recording.dispatches.len() as f64 * limits.dispatch_seconds;
            dispatches += recording.dispatches.len();
        }
        Ok(row("tg", tokens, depth, &runs, (step * tokens as f64, "bytes + dispatches"), dispatches))
    }

    /// Time of each kernel in a decode step where `positions` are cached: of several steps the median of each dispatch.
    pub fn kernels(&mut self, positions: usize, timing: Timing) -> Result<Vec<KernelTime>> {
        let steps = if timing == Timing::Slope { 1 } else { self.repetitions + 1 };
        let mut profiles: Vec<Vec<DispatchTime>> = Vec::new();
        for _ in 0..steps {
            profiles.push(self.session.blocking_profile(positions, timing)?);
        }
        // The first warms up.
        let measured = if profiles.len() > 1 { &profiles[1..] } else { &profiles[..] };
        let mut kernels: Vec<KernelTime> = Vec::new();
        let mut dispatches = Vec::new();
        for (recording, limits) in self.session.decode_recordings().zip(&self.limits) {
            let limits = DeviceProfile { dispatch_seconds: 0.0, ..*limits };
            dispatches.extend(recording.dispatches.iter().map(|dispatch| (dispatch, limits)));
        }
        for (i, (dispatch, limits)) in dispatches.into_iter().enumerate() {
            let times: Vec<f64> = measured.iter().map(|p| p[i].time.as_secs_f64()).collect();
            let kernel = dispatch.kernel.spec.to_string();
            let at = kernels.iter().position(|k| k.kernel == kernel).unwrap_or_else(|| {
                kernels.push(KernelTime { kernel, dispatches: 0, seconds: 0.0, bytes: 0, fraction_of_limit: 0.0 });
                kernels.len() - 1
            });
            let k = &mut kernels[at];
            k.dispatches += 1;
            k.seconds += Summary::of(&times).median;
            k.bytes += dispatch.cost.bytes(positions);
            // Seconds at the limits, until all are summed.
            k.fraction_of_limit += dispatch.cost.seconds(positions, &limits);
        }
        for k in &mut kernels {
            k.fraction_of_limit /= k.seconds.max(1e-12);
        }
        kernels.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        Ok(kernels)
    }
}

/// One run of a test.
struct Run {
    time: Duration,
    host: Duration,
    submits: f64,
}

fn row(
    test: &str,
    tokens: usize,
    depth: usize,
    runs: &[Run],
    (bound_seconds, bound): (f64, &'static str),
    dispatches: usize,
) -> ModelRow {
    let rates: Vec<f64> = runs.iter().map(|r| tokens as f64 / r.time.as_secs_f64().max(1e-9)).collect();
    let mean = |of: fn(&Run) -> f64| runs.iter().map(of).sum::<f64>() / runs.len() as f64;
    let at = if depth > 0 { format!(" @ d{depth}") } else { String::new() };
    let figure = Summary::of(&rates);
    ModelRow {
        row: Row { name: format!("{test}{tokens}{at}"), unit: "t/s".into(), figure },
        tokens,
        depth,
        fraction_of_bound: bound_seconds * figure.mean / tokens as f64,
        bound,
        dispatches,
        submits: mean(|r| r.submits),
        host_microseconds: mean(|r| r.host.as_secs_f64() * 1e6),
    }
}
