//! Operators on random inputs, rotated through copies, each run once and held against its twin.

use super::weights::Pool;
use super::{Case, KernelBench};
use crate::bench::{Error, Random, Result};
use crate::formats::Format;
use crate::gpu::{Gpu, Recording, View};
use crate::ops::{
    Activation, Arithmetic, Attention, ExpertGateUp, ExpertMlp, KvLayer, Norm, Routing, Scratch, Step, Tensor, twins,
};
use crate::session::State;

/// An operator recorded once for each copy of its inputs, and found right.
pub struct Prepared {
    pub recording: Recording,
    pub copies: usize,
    pub nmse: f64,
}

impl Prepared {
    /// That of the products: the narrowest of the kernels.
    pub fn arithmetic(&self) -> Arithmetic {
        let all = self.recording.dispatches.iter().map(|d| Arithmetic::of(&d.kernel.spec));
        all.max().unwrap_or(Arithmetic::F32)
    }
}

/// Outputs that are held against the twin, of rows or of tokens.
const SAMPLE: usize = 64;
/// NMSE that f32 paths keep; sums may be long.
const TOLERANCE: f64 = 1e-6;

/// The buffers of a step.
struct Rig<'g> {
    gpu: &'g Gpu,
    state: View,
    history: View,
    scratch: Scratch,
}

impl<'g> Rig<'g> {
    fn new(gpu: &'g Gpu, tokens: usize, position: usize) -> Result<Rig<'g>> {
        use wgpu::BufferUsages as Usage;
        let usage = Usage::UNIFORM | Usage::STORAGE | Usage::COPY_SRC | Usage::COPY_DST;
        let state = gpu.buffer_with("state", size_of::<State>() as u64, usage)?;
        let context = (position + tokens) as u32;
        let held = State { position: position as u32, context, limit: u32::MAX, ..State::default() };
        gpu.write(&state, 0, bytemuck::bytes_of(&held))?;
        let history = gpu.buffer("history", u64::from(context + 1) * 4)?;
        Ok(Rig { gpu, state, history, scratch: Scratch::new(tokens) })
    }

    /// Records an operator for each copy, and runs the first.
    fn record(
        &mut self,
        bench: &KernelBench,
        tokens: usize,
        copies: usize,
        mut op: impl FnMut(&mut Step, usize) -> crate::ops::Result<()>,
    ) -> Result<Recording> {
        let mut step = Step::new(self.gpu, bench.tier, tokens, &self.state, &self.history, &mut self.scratch)?;
        step.set_profile(bench.limits);
        bench.force.into_iter().for_each(|arithmetic| step.force(arithmetic));
        for copy in 0..copies {
            op(&mut step, copy)?;
        }
        let recording = step.finish()?;
        self.gpu.submit(&recording, 0..recording.dispatches.len() / copies, &[])?;
        Ok(recording)
    }

    fn floats(&self, name: &str) -> Result<Vec<f32>> {
        Ok(self.gpu.blocking_read(self.scratch.get(name).expect("recorded"))?)
    }
}

fn tensor(gpu: &Gpu, data: &[f32], columns: usize) -> Result<Tensor> {
    Ok(Tensor { view: gpu.upload("activations", data)?, first_row: 0, rows: data.len() / columns, columns })
}

/// At most `most` of `0..n`, evenly spread, the first and the last among them.
fn spread(n: usize, most: usize) -> impl Iterator<Item = usize> {
    let count = n.min(most);
    (0..count).map(move |i| if count == 1 { 0 } else { i * (n - 1) / (count - 1) })
}

/// NMSE of (found, expected), which must not exceed the tolerance.
fn check(case: &Case, pairs: &[(f32, f32)]) -> Result<f64> {
    let mean = pairs.iter().map(|(_, want)| f64::from(*want)).sum::<f64>() / pairs.len() as f64;
    let power: f64 = pairs.iter().map(|(_, want)| (f64::from(*want) - mean).powi(2)).sum();
    let error: f64 = pairs.iter().map(|(got, want)| (f64::from(*got) - f64::from(*want)).powi(2)).sum();
    let nmse = error / power.max(1e-30);
    if nmse <= TOLERANCE {
        return Ok(nmse);
    }
    let what = format!("NMSE {nmse:.1e} against the twin, at most {TOLERANCE:.0e} is right");
    Err(Error::Wrong { name: case.name(), what })
}

impl KernelBench<'_> {
    pub(super) fn linear(
        &self,
        case: &Case,
        format: Format,
        rows: usize,
        columns: usize,
        tokens: usize,
    ) -> Result<Prepared> {
        let gpu = self.gpu;
        let copies = self.copies(case);
        let pool = Pool::new(format, columns);
        let mut random = Random::new(1);
        let first = random.floats(tokens * columns);
        let mut inputs = Vec::new();
        for copy in 0..copies {
            let x = if copy == 0 { first.clone() } else { random.floats(tokens * columns) };
            inputs.push((tensor(gpu, &x, columns)?, pool.matrix(gpu, copy, rows)?));
        }
        let y =
            Tensor { view: gpu.buffer("y", (tokens * rows * 4) as u64)?, first_row: 0, rows: tokens, columns: rows };
        let mut rig = Rig::new(gpu, tokens, 0)?;
        let recording = rig.record(self, tokens, copies, |step, copy| {
            let (x, matrix) = &inputs[copy];
            step.add_linear(&y, x, matrix, None)
        })?;
        let got: Vec<f32> = gpu.blocking_read(&y.view)?;
        let mut pairs = Vec::new();
        for row in spread(rows, SAMPLE) {
            let w = pool.row(0, row);
            for token in spread(tokens, 8) {
                let x = &first[token * columns..][..columns];
                let want = twins::linear(x, &w, columns, None, twins::Epilogue::Store)[0];
                pairs.push((got[token * rows + row], want));
            }
        }
        Ok(Prepared { recording, copies, nmse: check(case, &pairs)? })
    }

    /// One stack, of which every copy reads experts of its own.
    pub(super) fn experts(
        &self,
        case: &Case,
        format: Format,
        [experts, used, ff, hidden]: [usize; 4],
    ) -> Result<Prepared> {
        let gpu = self.gpu;
        let copies = (experts / used).min(self.copies_by_time(case));
        let (wide, narrow) = (Pool::new(format, hidden), Pool::new(format, ff));
        let mlp = ExpertMlp {
            gate_up: ExpertGateUp::Joined(wide.stack(gpu, experts, 2 * ff)?),
            down: narrow.stack(gpu, experts, hidden)?,
            bias: None,
            activation: Activation::Silu,
        };
        let mut random = Random::new(2);
        let mut order: Vec<u32> = (0..experts as u32).collect();
        (1..experts).rev().for_each(|i| order.swap(i, random.below(i + 1)));
        let gates = vec![1.0 / used as f32; used];
        let mut routings = Vec::new();
        for chosen in order.chunks_exact(used).take(copies) {
            let (routed, gates) = (gpu.upload("routed", chosen)?, gpu.upload("gates", &gates)?);
            routings.push(Routing { routed, gates, experts, ranks: used });
        }
        let x = random.floats(hidden);
        let weight = vec![1.0; hidden];
        let norm = Norm { weight: gpu.upload("norm", &weight)?, columns: hidden, eps: 1e-6 };
        let y = tensor(gpu, &x, hidden)?;
        let mut rig = Rig::new(gpu, 1, 0)?;
        let op = |step: &mut Step, copy: usize| step.norm_experts(&y, &norm, &routings[copy], &mlp);
        let recording = rig.record(self, 1, copies, op)?;

        // Each of the two kernels by itself: the second on what the first gave.
        let (h, got) = (rig.floats("expert h")?, gpu.blocking_read::<f32>(&y.view)?);
        let normed = twins::rms_norm(&x, &weight, norm.eps);
        let gated = |rank: usize, i: usize| {
            let row = order[rank] as usize * 2 * ff + i;
            let both = [wide.row(0, row), wide.row(0, row + ff)].concat();
            twins::linear(&normed, &both, hidden, None, twins::Epilogue::GateUp(Activation::Silu))[0]
        };
        let hs: Vec<(f32, f32)> = (0..used)
            .flat_map(|rank| spread(ff, SAMPLE / 8).map(move |i| (rank, i)))
            .map(|(rank, i)| (h[rank * ff + i], gated(rank, i)))
            .collect();
        let combined = |o: usize| {
            let part = |rank: usize| {
                let w = narrow.row(0, order[rank] as usize * hidden + o);
                f64::from(gates[rank]) * twins::dot(&w, &h[rank * ff..][..ff])
            };
            (f64::from(x[o]) + (0..used).map(part).sum::<f64>()) as f32
        };
        let ys: Vec<(f32, f32)> = spread(hidden, SAMPLE).map(|o| (got[o], combined(o))).collect();
        Ok(Prepared { recording, copies, nmse: check(case, &hs)?.max(check(case, &ys)?) })
    }

    /// Keys and values in f16.
    pub(super) fn attention(
        &self,
        case: &Case,
        [heads, kv_heads, head_dim]: [usize; 3],
        tokens: usize,
        before: usize,
    ) -> Result<Prepared> {
        let gpu = self.gpu;
        let copies = self.copies(case);
        let mut random = Random::new(3);
        let values = (before + tokens) * kv_heads * head_dim;
        let (mut inputs, mut first) = (Vec::new(), None);
        for _ in 0..copies {
            let q = random.floats(tokens * heads * head_dim);
            let (k, v) = (random.floats(values), random.floats(values));
            let upload = |data: &[f32]| {
                let halves: Vec<half::f16> = data.iter().map(|x| half::f16::from_f32(*x)).collect();
                gpu.upload("cache", &halves)
            };
            let cache = KvLayer { k: upload(&k)?, v: Some(upload(&v)?), index: None, f16: true, ring: None };
            inputs.push((tensor(gpu, &q, heads * head_dim)?, cache));
            first.get_or_insert((q, twins::round_f16(&k), twins::round_f16(&v)));
        }
        let attention =
            Attention { heads, kv_heads, head_dim, scale: 1.0 / (head_dim as f32).sqrt(), window: None, sinks: None };
        let mut rig = Rig::new(gpu, tokens, before)?;
        let op = |step: &mut Step, copy: usize| {
            let (q, cache) = &inputs[copy];
            step.attention(q, &attention, cache).map(drop)
        };
        // Copies write to one output; the first is alone so far.
        let recording = rig.record(self, tokens, copies, op)?;
        let got = rig.floats("attended")?;
        let (q, k, v) = first.expect("a copy");
        let mut pairs = Vec::new();
        for token in spread(tokens, 8) {
            for head in spread(heads, 4) {
                let at = (token * heads + head) * head_dim;
                let of = |all: &[f32]| -> Vec<f32> {
                    let rows = all.chunks_exact(kv_heads * head_dim);
                    rows.flat_map(|row| row[head / (heads / kv_heads) * head_dim..][..head_dim].to_vec()).collect()
                };
                let (q, k, v) = (&q[at..][..head_dim], of(&k), of(&v));
                let want = twins::attention(q, &k, &v, 1, 1, head_dim, attention.scale, before + token, None, None);
                pairs.extend(got[at..][..head_dim].iter().copied().zip(want));
            }
        }
        Ok(Prepared { recording, copies, nmse: check(case, &pairs)? })
    }
}
