//! The twins of latent attention.

use super::{RopePairs, dot, head, rms_norm, row};

/// What it goes by, as in [`LatentAttention`](crate::ops::LatentAttention), weights decoded.
#[derive(Clone, Copy)]
pub struct Latent<'a> {
    pub heads: usize,
    pub rank: usize,
    pub rope_dim: usize,
    pub scale: f32,
    /// Weights `[rank]` and epsilon of the latent's norm.
    pub norm: (&'a [f32], f32),
    /// [heads, rank, lanes of a head that do not turn]
    pub k_b: &'a [f32],
    /// [heads, value size, rank]
    pub v_b: &'a [f32],
}

/// The cache's row [rank + rope_dim] of a projected row of as many values: the normed latent, then the turned key.
pub fn latent_row(a: &[f32], l: &Latent, turns: &[[f32; 2]]) -> Vec<f32> {
    let (latent, key) = a.split_at(l.rank);
    let mut row = rms_norm(latent, l.norm.0, l.norm.1);
    row.extend(head(key, None, turns, RopePairs::Adjacent));
    row
}

/// Attention over `rows` [positions, rank + rope_dim], with keys and values expanded from them as the paper has it:
/// q [tokens, heads, lanes that do not turn + rope_dim], the result [tokens, heads, value size]. `turns` are those of
/// the tokens, the first of which is at `position`; `sees` tells which of the positions up to its own one sees.
pub fn latent_attention(
    q: &[f32],
    rows: &[f32],
    l: &Latent,
    turns: &[[f32; 2]],
    position: usize,
    sees: &dyn Fn(usize, usize) -> bool,
) -> Vec<f32> {
    let (nope, value_dim) = (l.k_b.len() / l.heads / l.rank, l.v_b.len() / l.heads / l.rank);
    let (key_dim, pairs) = (l.rank + l.rope_dim, l.rope_dim / 2);
    let mut out = Vec::new();
    for (i, q) in q.chunks_exact(nope + l.rope_dim).enumerate() {
        let (token, h) = (i / l.heads, i % l.heads);
        let turned = head(&q[nope..], None, &turns[token * pairs..][..pairs], RopePairs::Adjacent);
        // k_b^T q in place of k_b latent for each position: the same sum in another order, both in f64.
        let k_b = &l.k_b[h * l.rank * nope..][..l.rank * nope];
        let absorbed: Vec<f64> = (0..l.rank).map(|r| dot(row(k_b, r, nope), &q[..nope])).collect();
        let seen: Vec<&[f32]> =
            (0..=position + token).filter(|p| sees(token, *p)).map(|p| row(rows, p, key_dim)).collect();
        let score = |key: &[f32]| {
            let latent: f64 = absorbed.iter().zip(key).map(|(q, k)| q * f64::from(*k)).sum();
            f64::from(l.scale) * (latent + dot(&turned, &key[l.rank..]))
        };
        let scores: Vec<f64> = seen.iter().map(|key| score(key)).collect();
        let high = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|s| (s - high).exp()).collect();
        let total: f64 = weights.iter().sum();
        let mut latent = vec![0.0; l.rank];
        for (w, key) in weights.iter().zip(seen) {
            latent.iter_mut().zip(key).for_each(|(sum, v)| *sum += w / total * f64::from(*v));
        }
        let v_b = &l.v_b[h * value_dim * l.rank..][..value_dim * l.rank];
        let value = |r| row(v_b, r, l.rank).iter().zip(&latent).map(|(w, x)| f64::from(*w) * x).sum::<f64>() as f32;
        out.extend((0..value_dim).map(value));
    }
    out
}
