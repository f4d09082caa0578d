//! The twins of the lightning indexer.

use super::{RopePairs, dot, head};

/// A key as the cache holds it: through a LayerNorm of weights and biases `[head_dim]`, its first lanes turned.
pub fn index_key(x: &[f32], norm: [&[f32]; 2], eps: f32, turns: &[[f32; 2]], pairs: RopePairs) -> Vec<f32> {
    let count = x.len() as f64;
    let mean = x.iter().map(|x| f64::from(*x)).sum::<f64>() / count;
    let variance = x.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / count;
    let inverse = 1.0 / (variance + f64::from(eps)).sqrt();
    let normed = |i: usize| (f64::from(x[i]) - mean) * inverse * f64::from(norm[0][i]) + f64::from(norm[1][i]);
    let normed: Vec<f32> = (0..x.len()).map(|i| normed(i) as f32).collect();
    head(&normed, None, turns, pairs)
}

/// sum over heads of weight * relu(q . k) for each of `keys` [positions, head_dim]; q [heads, head_dim], turned.
pub fn index_scores(q: &[f32], weights: &[f32], keys: &[f32]) -> Vec<f32> {
    let head_dim = q.len() / weights.len();
    let score = |key| {
        let heads = q.chunks_exact(head_dim).zip(weights);
        heads.map(|(q, w)| f64::from(*w) * dot(q, key).max(0.0)).sum::<f64>() as f32
    };
    keys.chunks_exact(head_dim).map(score).collect()
}

/// The positions of the `top_k` best scores, ties to the lower, in rising order; all where there are no more.
pub fn index_select(scores: &[f32], top_k: usize) -> Vec<u32> {
    let mut order: Vec<u32> = (0..scores.len() as u32).collect();
    let at = |i: u32| scores[i as usize];
    order.sort_by(|a, b| at(*b).partial_cmp(&at(*a)).expect("no NaN")); // stable
    order.truncate(top_k);
    order.sort();
    order
}
