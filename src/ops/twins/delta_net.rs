//! Twins of the gated delta net (arXiv 2412.06464), token by token as the paper writes it.

use super::{row, silu};
use crate::ops::{DeltaHeads, KeySharing};

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// log(1 + e^x)
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// y * sigmoid(g), a gate for each run of `share` values.
pub fn gate(y: &[f32], gates: &[f32], share: usize) -> Vec<f32> {
    y.iter().enumerate().map(|(i, y)| (f64::from(*y) * sigmoid(f64::from(gates[i / share]))) as f32).collect()
}

/// The convolution before a delta net: inputs [tokens, channels] and the inputs before them [taps - 1, channels], oldest
/// first; weights [taps, channels]. silu, and of q and k heads the division by their L2 norm; q by sqrt(key_dim) too.
pub fn short_conv(inputs: &[f32], past: &[f32], weights: &[f32], h: &DeltaHeads) -> Vec<f32> {
    let channels = h.channels();
    let all = [past, inputs].concat();
    let keyed = 2 * h.key_heads * h.key_dim;
    let mut y = Vec::with_capacity(inputs.len());
    for token in 0..inputs.len() / channels {
        let of = |channel: usize| -> f64 {
            let at = |tap: usize| f64::from(all[(token + tap) * channels + channel]);
            silu((0..h.taps).map(|tap| f64::from(weights[tap * channels + channel]) * at(tap)).sum())
        };
        let convolved: Vec<f64> = (0..channels).map(of).collect();
        for (i, head) in convolved[..keyed].chunks_exact(h.key_dim).enumerate() {
            let norm = (head.iter().map(|x| x * x).sum::<f64>() + 1e-6).sqrt();
            let scale = if i < h.key_heads { 1.0 / (h.key_dim as f64).sqrt() } else { 1.0 };
            y.extend(head.iter().map(|x| (x / norm * scale) as f32));
        }
        y.extend(convolved[keyed..].iter().map(|x| *x as f32));
    }
    y
}

/// What a delta net reads beside q, k and v, all of each token [tokens, ...]: z `[inner]`, b and a `[value_heads]`.
pub struct DeltaGates<'a> {
    pub z: &'a [f32],
    pub b: &'a [f32],
    pub a: &'a [f32],
    /// [value_heads, 2]: a and dt.
    pub decay: &'a [[f32; 2]],
    /// Of a head's output: `[value_dim]`.
    pub norm: &'a [f32],
    pub eps: f32,
}

/// The output [tokens, value_heads, value_dim] of the convolved qkv [tokens, channels], and the states
/// [value_heads, value_dim, key_dim] after the last token, in place.
pub fn delta_net(qkv: &[f32], gates: &DeltaGates, h: &DeltaHeads, states: &mut [f64]) -> Vec<f32> {
    let mut out = Vec::with_capacity(gates.z.len());
    for token in 0..qkv.len() / h.channels() {
        let (qk, v) = row(qkv, token, h.channels()).split_at(2 * h.key_heads * h.key_dim);
        let (q, k) = qk.split_at(qk.len() / 2);
        for head in 0..h.value_heads {
            let key_head = match h.sharing {
                KeySharing::Grouped => head / (h.value_heads / h.key_heads),
                KeySharing::Tiled => head % h.key_heads,
            };
            let at = token * h.value_heads + head;
            let [a, dt] = gates.decay[head].map(f64::from);
            let decay = (a * softplus(f64::from(gates.a[at]) + dt)).exp();
            let state = &mut states[head * h.key_dim * h.value_dim..][..h.key_dim * h.value_dim];
            state.iter_mut().for_each(|s| *s *= decay);
            let o = delta_rule(
                state,
                row(q, key_head, h.key_dim),
                row(k, key_head, h.key_dim),
                row(v, head, h.value_dim),
                sigmoid(f64::from(gates.b[at])),
            );
            let mean = o.iter().map(|o| o * o).sum::<f64>() / o.len() as f64;
            let inverse = 1.0 / (mean + f64::from(gates.eps)).sqrt();
            let z = row(gates.z, at, h.value_dim);
            out.extend(
                (0..o.len()).map(|i| (o[i] * inverse * f64::from(gates.norm[i]) * silu(f64::from(z[i]))) as f32),
            );
        }
    }
    out
}

/// S += k (beta (v - k S))^T, then q S.   S by columns: [value_dim, key_dim]
fn delta_rule(state: &mut [f64], q: &[f32], k: &[f32], v: &[f32], beta: f64) -> Vec<f64> {
    let read = |state: &[f64], by: &[f32], j: usize| -> f64 {
        by.iter().enumerate().map(|(i, x)| f64::from(*x) * state[j * by.len() + i]).sum()
    };
    let rows = k.len();
    for j in 0..v.len() {
        let change = beta * (f64::from(v[j]) - read(state, k, j));
        k.iter().enumerate().for_each(|(i, k)| state[j * rows + i] += f64::from(*k) * change);
    }
    (0..v.len()).map(|j| read(state, q, j)).collect()
}
