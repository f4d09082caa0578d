//! The twins of hyper-connections.

use super::dot;

/// What they go by, as in [`HyperConnection`](crate::ops::HyperConnection).
#[derive(Clone, Copy)]
pub struct Hyper<'a> {
    /// [rows, 4 * hidden]
    pub matrix: &'a [f32],
    pub base: &'a [f32],
    pub scale: &'a [f32],
    pub norm_eps: f32,
    pub eps: f32,
    pub iterations: usize,
}

/// The weights of the streams for one token: into the half that reads them, of its result, and `comb[j][k]`, of stream j in
/// the new stream k. Of the head the first alone count.
pub struct StreamWeights {
    pub pre: [f64; 4],
    pub post: [f64; 4],
    pub comb: [[f64; 4]; 4],
}

/// Those of a token's streams [4, hidden].
pub fn hyper_weights(streams: &[f32], h: &Hyper) -> StreamWeights {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let squares = dot(streams, streams) / streams.len() as f64;
    let inverse = 1.0 / (squares + f64::from(h.norm_eps)).sqrt();
    let product = |row: usize, part: usize| -> f64 {
        let Some(weights) = h.matrix.get(row * streams.len()..(row + 1) * streams.len()) else { return 0.0 };
        dot(weights, streams) * inverse * f64::from(h.scale[part]) + f64::from(h.base[row])
    };
    let eps = f64::from(h.eps);
    let mut comb: [[f64; 4]; 4] = std::array::from_fn(|j| {
        let row: [f64; 4] = std::array::from_fn(|k| product(8 + 4 * j + k, 2));
        let high = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = row.iter().map(|m| (m - high).exp()).sum();
        row.map(|m| (m - high).exp() / total + eps)
    });
    for i in 0..h.iterations {
        if i > 0 {
            comb.iter_mut().for_each(|row| *row = row.map(|c| c / (row.iter().sum::<f64>() + eps)));
        }
        let sums: [f64; 4] = std::array::from_fn(|k| comb.iter().map(|row| row[k]).sum::<f64>() + eps);
        comb.iter_mut().for_each(|row| row.iter_mut().zip(sums).for_each(|(c, sum)| *c /= sum));
    }
    StreamWeights {
        pre: std::array::from_fn(|k| sigmoid(product(k, 0)) + eps),
        post: std::array::from_fn(|k| 2.0 * sigmoid(product(4 + k, 1))),
        comb,
    }
}

/// What a half reads of a token's streams [4, hidden].
pub fn hyper_read(streams: &[f32], w: &StreamWeights) -> Vec<f32> {
    let hidden = streams.len() / 4;
    let sum = |c: usize| (0..4).map(|k| w.pre[k] * f64::from(streams[k * hidden + c])).sum::<f64>() as f32;
    (0..hidden).map(sum).collect()
}

/// The streams after the result `y` `[hidden]` of the half has joined them.
pub fn hyper_join(streams: &[f32], y: &[f32], w: &StreamWeights) -> Vec<f32> {
    let hidden = y.len();
    let new = |i: usize| {
        let (k, c) = (i / hidden, i % hidden);
        let mixed: f64 = (0..4).map(|j| w.comb[j][k] * f64::from(streams[j * hidden + c])).sum();
        (w.post[k] * f64::from(y[c]) + mixed) as f32
    };
    (0..4 * hidden).map(new).collect()
}
