//! The twins of DeepSeek-V4's attention.

use super::{RopePairs, dot, head, rms_norm};

/// What the tokens so far make of a window, of each channel: the highest gate, the sum of e^(gate - highest), and that of the
/// values so weighed.
#[derive(Clone, Debug, PartialEq)]
pub struct WindowSums {
    pub high: Vec<f32>,
    pub weights: Vec<f64>,
    pub values: Vec<f64>,
}

/// RMSNorm, without weights if there are none, and the rotation of the last 2 * turns.len() lanes, pairs adjacent.
pub fn tail_turned(x: &[f32], norm: Option<&[f32]>, eps: f32, turns: &[[f32; 2]]) -> Vec<f32> {
    let ones = vec![1.0; x.len()];
    let mut y = rms_norm(x, norm.unwrap_or(&ones), eps);
    let first = x.len() - 2 * turns.len();
    let tail = head(&y[first..], None, turns, RopePairs::Adjacent);
    y[first..].copy_from_slice(&tail);
    y
}

/// The sums of window `window` of as many positions as `place` [ratio, width] has rows, over the positions of `values` and
/// `gates` [positions, width]. Where entries overlap, `head_dim` is half of the width: of the window before its own a position
/// counts by the first half.
pub fn window_sums(
    values: &[f32],
    gates: &[f32],
    place: &[f32],
    head_dim: usize,
    width: usize,
    window: usize,
) -> WindowSums {
    let (ratio, positions) = (place.len() / width, values.len() / width);
    let first = (window - usize::from(width > head_dim && window > 0)) * ratio;
    let seen: Vec<usize> = (first..positions.min((window + 1) * ratio)).collect();
    let column = |p: usize, c: usize| if width > head_dim && p >= window * ratio { head_dim + c } else { c };
    let gate = |p: usize, c: usize| gates[p * width + column(p, c)] + place[p % ratio * width + column(p, c)];
    let high: Vec<f32> = (0..head_dim).map(|c| seen.iter().map(|p| gate(*p, c)).fold(-3.0e38, f32::max)).collect();
    let weight = |p: usize, c: usize| (f64::from(gate(p, c)) - f64::from(high[c])).exp();
    let value = |p: usize, c: usize| weight(p, c) * f64::from(values[p * width + column(p, c)]);
    WindowSums {
        weights: (0..head_dim).map(|c| seen.iter().map(|p| weight(*p, c)).sum()).collect(),
        values: (0..head_dim).map(|c| seen.iter().map(|p| value(*p, c)).sum()).collect(),
        high,
    }
}

/// The entry of a full window whose first position has these turns.
pub fn compressed_entry(sums: &WindowSums, norm: (&[f32], f32), turns: &[[f32; 2]]) -> Vec<f32> {
    let mean: Vec<f32> = sums.values.iter().zip(&sums.weights).map(|(v, w)| (v / w) as f32).collect();
    tail_turned(&mean, Some(norm.0), norm.1, turns)
}

/// One head's result over the rows that its token sees, keys and values in one; `sink` is one more score, of no value. The
/// last lanes turn back by the token's own turns.
pub fn compressed_attention(q: &[f32], rows: &[&[f32]], scale: f32, sink: f32, turns: &[[f32; 2]]) -> Vec<f32> {
    let scores: Vec<f64> = rows.iter().map(|row| f64::from(scale) * dot(q, row)).collect();
    let high = scores.iter().copied().fold(f64::from(sink), f64::max);
    let total = scores.iter().map(|s| (s - high).exp()).sum::<f64>() + (f64::from(sink) - high).exp();
    let lane =
        |i: usize| scores.iter().zip(rows).map(|(s, row)| (s - high).exp() / total * f64::from(row[i])).sum::<f64>();
    let mut y: Vec<f32> = (0..q.len()).map(|i| lane(i) as f32).collect();
    let first = q.len() - 2 * turns.len();
    let back: Vec<[f32; 2]> = turns.iter().map(|[cos, sin]| [*cos, -sin]).collect();
    let tail = head(&y[first..], None, &back, RopePairs::Adjacent);
    y[first..].copy_from_slice(&tail);
    y
}
