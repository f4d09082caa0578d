//! The twins: what every kernel computes, as plain Rust that sums in f64 and rounds once, at the end. Tests hold each
//! kernel against the function of its name here, in all of its variants; who wants to know the maths reads this file.
//!
//! Weights come in decoded, all arrays are row-major, and shapes stand as in the kernels' own declarations.

mod compressed;
mod delta_net;
mod hyper;
mod index;
mod latent;
mod rounded;
mod sampling;

pub use compressed::{WindowSums, compressed_attention, compressed_entry, tail_turned, window_sums};
pub use delta_net::{DeltaGates, delta_net, gate, short_conv};
pub use hyper::{Hyper, StreamWeights, hyper_join, hyper_read, hyper_weights};
pub use index::{index_key, index_scores, index_select};
pub use latent::{Latent, latent_attention, latent_row};
pub use rounded::{cached, dequantise, kept, quantise};
pub use sampling::{Sampling, candidates, distribution, draw, penalise, random};

use super::{Activation, RopePairs, Scoring, Temperature, Window};

/// What becomes of a product W x before it is written.
#[derive(Clone, Copy, Debug)]
pub enum Epilogue<'a> {
    Store,
    /// y + W x, where y is what the output held.
    Residual(&'a [f32]),
    /// W is [2 * outputs, columns], gate rows first: activation(gate x) * (up x).
    GateUp(Activation),
    /// activation(W x) * y, where y is what the output held.
    GateMul(Activation, &'a [f32]),
}

/// scale * row `t` of the table [rows, columns] for each token t: [tokens, columns].
pub fn embed(table: &[f32], columns: usize, tokens: &[u32], scale: f32) -> Vec<f32> {
    let rows = tokens.iter().map(|&t| &table[t as usize * columns..][..columns]);
    rows.flatten().map(|w| scale * w).collect()
}

/// x / sqrt(mean(x^2) + eps) * weight for each row of x [rows, columns]; weight `[columns]` (arXiv 1910.07467).
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    let row = |x: &[f32]| -> Vec<f32> {
        let squares: f64 = x.iter().map(|x| f64::from(*x).powi(2)).sum();
        let inverse = 1.0 / (squares / x.len() as f64 + f64::from(eps)).sqrt();
        x.iter().zip(weight).map(|(x, w)| (f64::from(*x) * inverse * f64::from(*w)) as f32).collect()
    };
    x.chunks_exact(weight.len()).flat_map(row).collect()
}

/// x / (1 + e^-x)
pub fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

/// activation(gate) * up
pub fn gated(activation: Activation, gate: f64, up: f64) -> f64 {
    match activation {
        Activation::Silu => silu(gate) * up,
        Activation::GeluTanh => {
            let u = (2.0 / std::f64::consts::PI).sqrt() * (gate + 0.044715 * gate.powi(3));
            0.5 * gate * (1.0 + u.tanh()) * up
        }
        Activation::Clamped => {
            let gate = gate.min(7.0);
            gate / (1.0 + (-1.702 * gate).exp()) * (up.clamp(-7.0, 7.0) + 1.0)
        }
        Activation::SiluLimited(limit) => {
            let limit = f64::from(limit);
            silu(gate).min(limit) * up.clamp(-limit, limit)
        }
        Activation::SiluCapped(limit) => {
            let limit = f64::from(limit);
            silu(gate.min(limit)) * up.clamp(-limit, limit)
        }
    }
}

/// sum of a * b
pub fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// Row `i` of a matrix.
fn row(matrix: &[f32], i: usize, columns: usize) -> &[f32] {
    &matrix[i * columns..][..columns]
}

/// W x + bias for each token: x [tokens, columns], W [rows, columns], bias `[rows]`, the result [tokens, outputs].
/// The twin of both `matvec` and `matmul`.
pub fn linear(x: &[f32], w: &[f32], columns: usize, bias: Option<&[f32]>, epilogue: Epilogue) -> Vec<f32> {
    let rows = w.len() / columns;
    let outputs = if matches!(epilogue, Epilogue::GateUp(_)) { rows / 2 } else { rows };
    let mut y = Vec::with_capacity(x.len() / columns * outputs);
    for x in x.chunks_exact(columns) {
        for o in 0..outputs {
            let bias = |row: usize| bias.map_or(0.0, |b| f64::from(b[row]));
            let mut value = dot(row(w, o, columns), x) + bias(o);
            if let Epilogue::GateUp(activation) = epilogue {
                value = gated(activation, value, dot(row(w, outputs + o, columns), x) + bias(outputs + o));
            }
            y.push(match epilogue {
                Epilogue::Residual(held) => f64::from(held[y.len()]) + value,
                Epilogue::GateMul(activation, held) => gated(activation, value, f64::from(held[y.len()])),
                Epilogue::Store | Epilogue::GateUp(_) => value,
            } as f32);
        }
    }
    y
}

/// One head's part of `heads`: RMSNorm if there is one, then the rotation of the first 2 * turns.len() elements by the
/// angles whose (cos, sin) `turns` holds (arXiv 2104.09864).
pub fn head(x: &[f32], norm: Option<(&[f32], f32)>, turns: &[[f32; 2]], pairs: RopePairs) -> Vec<f32> {
    let mut y = norm.map_or_else(|| x.to_vec(), |(weight, eps)| rms_norm(x, weight, eps));
    for (i, turn) in turns.iter().enumerate() {
        let (a, b) = match pairs {
            RopePairs::Adjacent => (2 * i, 2 * i + 1),
            RopePairs::HalfSplit => (i, i + turns.len()),
        };
        let [cos, sin] = turn.map(f64::from);
        let (u, v) = (f64::from(y[a]), f64::from(y[b]));
        y[a] = (u * cos - v * sin) as f32;
        y[b] = (u * sin + v * cos) as f32;
    }
    y
}

/// The factor of a query at `position`.
pub fn temperature(t: Temperature, position: usize) -> f64 {
    1.0 + f64::from(t.scale) * (1.0 + ((position + t.offset) / t.span) as f64).ln()
}

/// What an f16 cache keeps of `x`.
pub fn round_f16(x: &[f32]) -> Vec<f32> {
    x.iter().map(|x| half::f16::from_f32(*x).to_f32()).collect()
}

/// softmax(scale q k^T) v per head, token t over positions 0 ..= position + t, of which those of its `window`; a head's sink
/// is one more score, of no value. q and the result are
/// [tokens, heads, head_dim], k and v [positions, kv_heads, head_dim]; heads / kv_heads query heads share a KV head.
#[allow(clippy::too_many_arguments, reason = "a twin takes plain numbers and slices, none of the operator's types")]
pub fn attention(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    scale: f32,
    position: usize,
    window: Option<Window>,
    sinks: Option<&[f32]>,
) -> Vec<f32> {
    let mut out = Vec::with_capacity(q.len());
    for (i, q) in q.chunks_exact(head_dim).enumerate() {
        let (token, head) = (i / heads, i % heads);
        let kv_head = head / (heads / kv_heads);
        let first = match window {
            None => 0,
            Some(Window::Last(n)) => (position + token + 1).saturating_sub(n),
            Some(Window::Chunk(n)) => (position + token) / n * n,
        };
        let scores: Vec<f64> = (first..=position + token)
            .map(|p| f64::from(scale) * dot(q, row(k, p * kv_heads + kv_head, head_dim)))
            .collect();
        let sink = sinks.map_or(f64::NEG_INFINITY, |s| f64::from(s[head]));
        let high = scores.iter().copied().fold(sink, f64::max);
        let weights: Vec<f64> = scores.iter().map(|s| (s - high).exp()).collect();
        let total: f64 = weights.iter().sum::<f64>() + (sink - high).exp();
        let mut sum = vec![0.0; head_dim];
        for (p, w) in weights.iter().enumerate() {
            sum.iter_mut()
                .zip(row(v, (first + p) * kv_heads + kv_head, head_dim))
                .for_each(|(s, v)| *s += w / total * f64::from(*v));
        }
        out.extend(sum.iter().map(|s| *s as f32));
    }
    out
}

/// The `ranks` best experts of each token, best first, ties to the lower index, and their softmax weights: over all
/// logits [tokens, experts], or over the chosen ones only (`renormalise`).
pub fn router(logits: &[f32], experts: usize, ranks: usize, renormalise: bool) -> (Vec<u32>, Vec<f32>) {
    let (mut routed, mut gates) = (Vec::new(), Vec::new());
    for logits in logits.chunks_exact(experts) {
        let mut order: Vec<usize> = (0..experts).collect();
        order.sort_by(|a, b| logits[*b].partial_cmp(&logits[*a]).expect("no NaN")); // stable
        let weight = |e: &usize| (f64::from(logits[*e]) - f64::from(logits[order[0]])).exp();
        let total: f64 = order[..if renormalise { ranks } else { experts }].iter().map(weight).sum();
        routed.extend(order[..ranks].iter().map(|e| *e as u32));
        gates.extend(order[..ranks].iter().map(|e| (weight(e) / total) as f32));
    }
    (routed, gates)
}

/// As [`router`], renormalised, each weight times its expert's factor.
pub fn router_scaled(logits: &[f32], scales: &[f32], ranks: usize) -> (Vec<u32>, Vec<f32>) {
    let (routed, mut gates) = router(logits, scales.len(), ranks, true);
    gates.iter_mut().zip(&routed).for_each(|(gate, e)| *gate *= scales[*e as usize]);
    (routed, gates)
}

/// cap * tanh(x / cap)
pub fn softcap(x: &[f32], cap: f32) -> Vec<f32> {
    x.iter().map(|x| (f64::from(cap) * (f64::from(*x) / f64::from(cap)).tanh()) as f32).collect()
}

/// What [`router_sigmoid`] goes by, as in [`SigmoidRouter`](super::SigmoidRouter).
#[derive(Clone, Copy)]
pub struct Sigmoids<'a> {
    pub experts: usize,
    pub bias: Option<&'a [f32]>,
    pub scoring: Scoring,
    pub ranks: usize,
    pub renormalise: bool,
    pub scale: f32,
    pub groups: (usize, usize),
    pub shared: usize,
}

/// A logit's score.
pub fn score(scoring: Scoring, logit: f32) -> f64 {
    let x = f64::from(logit);
    match scoring {
        Scoring::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        Scoring::SqrtSoftplus => (x.max(0.0) + (-x.abs()).exp().ln_1p()).sqrt(),
    }
}

/// As [`router`], by score(logit) + bias (by the logit without one) among the best groups; the weights are the scores,
/// renormalised if asked, times a scale. The shared experts follow with weight 1.
pub fn router_sigmoid(logits: &[f32], r: Sigmoids) -> (Vec<u32>, Vec<f32>) {
    let (experts, size) = (r.experts, r.experts / r.groups.0);
    let (mut routed, mut gates) = (Vec::new(), Vec::new());
    for logits in logits.chunks_exact(experts) {
        let weight = |e: usize| score(r.scoring, logits[e]);
        // As near as f32 brings it: equal scores tie on the device, too.
        let score = |e: usize| r.bias.map_or(logits[e], |bias| weight(e) as f32 + bias[e]);
        let best = |mut order: Vec<usize>, score: &dyn Fn(usize) -> f32, count: usize| {
            order.sort_by(|a, b| score(*b).total_cmp(&score(*a))); // stable
            order.truncate(count);
            order
        };
        let group =
            |g: usize| -> f32 { best((g * size..(g + 1) * size).collect(), &score, 2).into_iter().map(score).sum() };
        let kept = best((0..r.groups.0).collect(), &group, r.groups.1);
        let order = best((0..experts).filter(|e| kept.contains(&(e / size))).collect(), &score, r.ranks);
        let total: f64 = order.iter().map(|e| weight(*e)).sum();
        let factor = f64::from(r.scale) / if r.renormalise { total } else { 1.0 };
        routed.extend(order.iter().copied().chain(experts..experts + r.shared).map(|e| e as u32));
        gates.extend(order.iter().map(|e| (weight(*e) * factor) as f32).chain(vec![1.0; r.shared]));
    }
    (routed, gates)
}

/// The rows of `routed` sorted by expert, stably, and tiles [expert, first in the order, count, 0] of at most `bn` rows
/// of one expert.
pub fn expert_group(routed: &[u32], bn: usize) -> (Vec<u32>, Vec<[u32; 4]>) {
    let mut order: Vec<u32> = (0..routed.len() as u32).collect();
    order.sort_by_key(|row| routed[*row as usize]);
    let mut tiles: Vec<[u32; 4]> = Vec::new();
    for (at, row) in order.iter().enumerate() {
        let expert = routed[*row as usize];
        match tiles.last_mut() {
            Some(tile) if tile[0] == expert && (tile[2] as usize) < bn => tile[2] += 1,
            _ => tiles.push([expert, at as u32, 1, 0]),
        }
    }
    (order, tiles)
}

/// Weights of all experts, decoded: gate and up [experts, ff, hidden], down [experts, hidden, ff].
pub struct Experts<'a> {
    pub gate: &'a [f32],
    pub up: &'a [f32],
    pub down: &'a [f32],
    /// Of gate and up [experts, 2 * ff], and of down [experts, hidden].
    pub bias: Option<(&'a [f32], &'a [f32])>,
    pub activation: Activation,
    pub hidden: usize,
    pub ff: usize,
}

/// y + sum over ranks of gates * down(activation(gate x) * (up x)), for x and y [tokens, hidden], routed and gates
/// [tokens, ranks]. The twin of the expert mat-vecs, and of the grouped matmuls with `expert_combine`.
pub fn experts(y: &[f32], x: &[f32], e: &Experts, routed: &[u32], gates: &[f32]) -> Vec<f32> {
    expert_outer(y, &expert_inner(x, e, routed), e, routed, gates)
}

/// activation(gate x) * (up x): [tokens, ranks, ff].
pub fn expert_inner(x: &[f32], e: &Experts, routed: &[u32]) -> Vec<f32> {
    let (hidden, ff) = (e.hidden, e.ff);
    let ranks = routed.len() * hidden / x.len();
    let mut h = Vec::with_capacity(routed.len() * ff);
    for (r, expert) in routed.iter().enumerate() {
        let (x, first) = (row(x, r / ranks, hidden), *expert as usize * ff);
        let bias = |i: usize| e.bias.map_or(0.0, |b| f64::from(b.0[2 * first + i]));
        h.extend((0..ff).map(|i| {
            let gate = dot(row(e.gate, first + i, hidden), x) + bias(i);
            gated(e.activation, gate, dot(row(e.up, first + i, hidden), x) + bias(ff + i)) as f32
        }));
    }
    h
}

/// y + sum over ranks of gates * down(h).
pub fn expert_outer(y: &[f32], h: &[f32], e: &Experts, routed: &[u32], gates: &[f32]) -> Vec<f32> {
    let (hidden, ff) = (e.hidden, e.ff);
    let ranks = routed.len() * hidden / y.len();
    let mut out = Vec::with_capacity(y.len());
    for (i, y) in y.iter().enumerate() {
        let (t, o) = (i / hidden, i % hidden);
        let part = |r: usize| {
            let at = routed[r] as usize * hidden + o;
            let bias = e.bias.map_or(0.0, |b| f64::from(b.1[at]));
            f64::from(gates[r]) * (dot(row(e.down, at, ff), row(h, r, ff)) + bias)
        };
        out.push((f64::from(*y) + (t * ranks..(t + 1) * ranks).map(part).sum::<f64>()) as f32);
    }
    out
}

/// As [`experts`], with each weight on its expert's input: y + sum over ranks of mlp(gates x).
pub fn weighted_experts(y: &[f32], x: &[f32], e: &Experts, routed: &[u32], gates: &[f32]) -> Vec<f32> {
    let ranks = routed.len() * e.hidden / x.len();
    let mut out = y.to_vec();
    for r in 0..ranks {
        let of_rank = |i: usize| i * ranks + r;
        let x: Vec<f32> = x.iter().enumerate().map(|(i, x)| gates[of_rank(i / e.hidden)] * x).collect();
        let routed: Vec<u32> = (0..routed.len() / ranks).map(|t| routed[of_rank(t)]).collect();
        out = experts(&out, &x, e, &routed, &vec![1.0; routed.len()]);
    }
    out
}
