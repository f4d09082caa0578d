//! The gated MLPs of a mixture's experts: of one token by mat-vecs, of many by grouped matmuls.

use super::Work;
use super::operators::{Case, Chosen};
use super::rig::{Found, Made, spread, tensor};
use super::sizes::{Mixed, Sizes};
use super::weights::Pool;
use crate::bench::{Random, Result};
use crate::formats::Format;
use crate::gpu::Gpu;
use crate::ops::{Activation, ExpertGateUp, ExpertMlp, Norm, Routing, twins};

pub fn matvec(s: &Sizes, chosen: &Chosen) -> Vec<Case> {
    cases(s, chosen, 1)
}

pub fn grouped(s: &Sizes, chosen: &Chosen) -> Vec<Case> {
    cases(s, chosen, s.prefill)
}

fn cases(s: &Sizes, chosen: &Chosen, tokens: usize) -> Vec<Case> {
    let of = |m: &Mixed| -> Vec<Case> {
        chosen.formats(&[Format::Q4K]).into_iter().map(|format| case(format, *m, tokens, chosen.memory)).collect()
    };
    s.mixture.iter().flat_map(of).collect()
}

/// y += sum over ranks of gate * mlp(norm(y)). Of a stack that is too large for the memory as many experts as fit, at least
/// those that a token uses.
fn case(format: Format, m: Mixed, tokens: usize, memory: u64) -> Case {
    let Mixed { used, ff, hidden, .. } = m;
    let row = |columns: usize| columns / format.block() * format.block_bytes();
    let each = 2 * ff * row(hidden) + hidden * row(ff);
    let fit = (memory as usize / each.max(1)).max(used);
    let experts = if fit < m.experts { fit / used * used } else { m.experts };
    let rows = tokens * used;
    let weights = rows.min(experts) * each;
    let work = Work {
        kept: weights as u64,
        bytes: (weights + tokens * 3 * hidden * 4) as u64,
        flops: (6 * rows * ff * hidden) as u64,
    };
    let by = if tokens == 1 { String::new() } else { format!(" by {tokens}") };
    let name = format!("{format} {used} of {experts} {ff}x{hidden}{by}");
    let m = Mixed { experts, ..m };
    Case::new(name, work, move |gpu, copies| make(gpu, copies, format, m, tokens)).of(format, &[ff, hidden])
}

/// What the check reads.
struct Inputs {
    m: Mixed,
    tokens: usize,
    wide: Pool,
    narrow: Pool,
    x: Vec<f32>,
    norm: Vec<f32>,
    eps: f32,
    /// [tokens, used]
    routed: Vec<u32>,
    y: crate::gpu::View,
}

fn make(gpu: &Gpu, copies: usize, format: Format, m: Mixed, tokens: usize) -> Result<Made> {
    let Mixed { experts, used, ff, hidden, .. } = m;
    let (wide, narrow) = (Pool::new(format, hidden), Pool::new(format, ff));
    let mlp = ExpertMlp {
        gate_up: ExpertGateUp::Joined(wide.stack(gpu, 0, experts, 2 * ff)?),
        down: narrow.stack(gpu, 0, experts, hidden)?,
        bias: None,
        activation: Activation::Silu,
    };
    let mut random = Random::new(2);
    // One stack, of which every copy of a decode step reads experts of its own; a prefill reads all.
    let copies = if tokens == 1 { copies.min(experts / used) } else { 1 };
    let mut order: Vec<u32> = (0..experts as u32).collect();
    let mut shuffle = |order: &mut Vec<u32>| (1..experts).rev().for_each(|i| order.swap(i, random.below(i + 1)));
    shuffle(&mut order);
    let chosen: Vec<Vec<u32>> = match tokens {
        1 => order.chunks_exact(used).take(copies).map(<[u32]>::to_vec).collect(),
        _ => vec![
            (0..tokens)
                .flat_map(|_| {
                    shuffle(&mut order);
                    order[..used].to_vec()
                })
                .collect(),
        ],
    };
    let gates = vec![1.0 / used as f32; tokens * used];
    let mut routings = Vec::new();
    for routed in &chosen {
        let (routed, gates) = (gpu.upload("routed", routed)?, gpu.upload("gates", &gates)?);
        routings.push(Routing { routed, gates, experts, ranks: used });
    }
    let x = Random::new(3).floats(tokens * hidden);
    let weight = vec![1.0; hidden];
    let norm = Norm { weight: gpu.upload("norm", &weight)?, columns: hidden, eps: 1e-6 };
    let y = tensor(gpu, &x, hidden)?;
    let inputs = Inputs {
        m,
        tokens,
        wide,
        narrow,
        x: x.clone(),
        norm: weight,
        eps: norm.eps,
        routed: chosen[0].clone(),
        y: y.view.clone(),
    };
    let view = y.view.clone();
    let record = move |step: &mut crate::ops::Step, copy: usize| step.norm_experts(&y, &norm, &routings[copy], &mlp);
    Ok(Made::new(copies, tokens, 0, record, move |found| inputs.check(found)).fresh(&view, &x))
}

impl Inputs {
    /// Each of the two halves by itself: the second on what the first gave.
    fn check(&self, found: &Found) -> Result<f64> {
        let Mixed { used, ff, hidden, .. } = self.m;
        let normed = twins::rms_norm(&self.x, &self.norm, self.eps);
        let read = found.rounded("quantised", &normed)?;
        let (h, got) = (found.scratch::<f32>("expert h")?, found.read::<f32>(&self.y)?);
        let h = &h[..self.tokens * used * ff];
        let read_h = found.rounded("quantised h", h)?;
        // Of many tokens h lies in the order of experts.
        let order = match self.tokens {
            1 => (0..used as u32).collect(),
            _ => found.scratch::<u32>("expert order")?,
        };
        let mut place = vec![usize::MAX; self.tokens * used];
        order.iter().take(place.len()).enumerate().for_each(|(at, row)| place[*row as usize] = at);
        if place.contains(&usize::MAX) {
            return Err(found.wrong("rows are missing in the order of experts".into()));
        }
        let expert = |token: usize, rank: usize| self.routed[token * used + rank] as usize;
        let gated = |token: usize, rank: usize, i: usize| {
            let row = expert(token, rank) * 2 * ff + i;
            let both = [self.wide.row(0, row), self.wide.row(0, row + ff)].concat();
            let x = &read[token * hidden..][..hidden];
            twins::linear(x, &both, hidden, None, twins::Epilogue::GateUp(Activation::Silu))[0]
        };
        let combined = |token: usize, o: usize| {
            let part = |rank: usize| {
                let w = self.narrow.row(0, expert(token, rank) * hidden + o);
                twins::dot(&w, &read_h[place[token * used + rank] * ff..][..ff]) / used as f64
            };
            (f64::from(self.x[token * hidden + o]) + (0..used).map(part).sum::<f64>()) as f32
        };
        let (mut hs, mut ys) = (Vec::new(), Vec::new());
        for token in spread(self.tokens, 4) {
            for rank in 0..used {
                let at = place[token * used + rank] * ff;
                hs.extend(spread(ff, 8).map(|i| (h[at + i], gated(token, rank, i))));
            }
            ys.extend(spread(hidden, 32).map(|o| (got[token * hidden + o], combined(token, o))));
        }
        Ok(found.hold("h", &hs)?.max(found.hold("y", &ys)?))
    }
}
