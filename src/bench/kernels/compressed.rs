//! What DeepSeek-V4 has of its own: hyper-connections, and attention over a window and selected entries.

use super::Work;
use super::attention::{span, turns};
use super::operators::{Case, Chosen};
use super::rig::{Found, Made, cache, spread, tensor};
use super::sizes::{Compressed, Sizes};
use crate::bench::{Random, Result};
use crate::gpu::Gpu;
use crate::ops::{
    CompressedAttention, CompressedLayer, HyperConnection, Joining, Norm, STREAMS, Selection, Step, twins,
};

/// Positions of an entry.
const RATIO: usize = 4;

/// A token's, and those of a prefill.
pub fn hyper(s: &Sizes, _: &Chosen) -> Vec<Case> {
    let of = |c: &Compressed| {
        let hidden = c.hidden;
        [1, s.prefill].map(|tokens| {
            let matrix = HyperConnection::rows(false) * STREAMS * hidden;
            let work = Work {
                kept: 4 * matrix as u64,
                bytes: (4 * matrix + 4 * tokens * 2 * (STREAMS + 1) * hidden) as u64,
                flops: (2 * tokens * (matrix + STREAMS * hidden)) as u64,
            };
            let name = format!("{STREAMS}x{hidden} by {tokens}");
            Case::new(name, work, move |gpu, copies| make_hyper(gpu, copies, hidden, tokens))
        })
    };
    s.compressed.iter().flat_map(of).collect()
}

fn make_hyper(gpu: &Gpu, copies: usize, hidden: usize, tokens: usize) -> Result<Made> {
    let mut random = Random::new(11);
    let rows = HyperConnection::rows(false);
    let scaled = |values: Vec<f32>| -> Vec<f32> { values.iter().map(|x| x / (hidden as f32).sqrt()).collect() };
    let (norm_eps, eps, iterations) = (1e-6, 1e-6, 20);
    let (base, scale) = (random.floats(rows), random.floats(3));
    let x = random.floats(tokens * hidden);
    let (mut inputs, mut first) = (Vec::new(), None);
    for _ in 0..copies {
        let matrix = scaled(random.floats(rows * STREAMS * hidden));
        let [on_device, base, scale] =
            [gpu.upload("matrix", &matrix)?, gpu.upload("base", &base)?, gpu.upload("scale", &scale)?];
        let hc = HyperConnection { matrix: on_device, base, scale, hidden, head: false, norm_eps, eps, iterations };
        inputs.push((tensor(gpu, &x, hidden)?, hc));
        first.get_or_insert(matrix);
    }
    let matrix = first.expect("a copy at least");
    let check = move |found: &Found| {
        let got: Vec<f32> = found.scratch("of streams")?;
        let h = twins::Hyper { matrix: &matrix, base: &base, scale: &scale, norm_eps, eps, iterations };
        let pairs = spread(tokens, 4).flat_map(|token| {
            let streams = x[token * hidden..][..hidden].repeat(STREAMS);
            let want = twins::hyper_read(&streams, &twins::hyper_weights(&streams, &h));
            got[token * hidden..][..hidden].iter().copied().zip(want).collect::<Vec<_>>()
        });
        found.hold("of streams", &pairs.collect::<Vec<_>>())
    };
    let record = move |step: &mut Step, copy: usize| {
        let (x, hc) = &inputs[copy];
        step.hyper_connection(Joining::Embedding(x), hc).map(drop)
    };
    Ok(Made::new(copies, tokens, 0, record, check))
}

/// A decode step, and a prefill.
pub fn entries(s: &Sizes, _: &Chosen) -> Vec<Case> {
    let of = |c: &Compressed| [(1, s.cached), (s.prefill, 0)].map(|(tokens, before)| attended(*c, tokens, before));
    s.compressed.iter().flat_map(of).collect()
}

/// Rows that tokens see in all.
fn seen(c: Compressed, tokens: usize, before: usize) -> usize {
    let of = |p: usize| (p + 1).min(c.window) + ((p + 1) / RATIO).min(c.top_k);
    (before..before + tokens).map(of).sum()
}

fn attended(c: Compressed, tokens: usize, before: usize) -> Case {
    let Compressed { heads, head_dim, top_k, window, .. } = c;
    let row = 2 * head_dim;
    let kept = row * ((before + tokens).min(window + tokens) + ((before + tokens) / RATIO).min(tokens * top_k));
    let work = Work {
        kept: kept as u64,
        bytes: (kept + 8 * tokens * heads * head_dim) as u64,
        flops: (4 * heads * head_dim * seen(c, tokens, before)) as u64,
    };
    let name = format!("f16 {heads}x{head_dim} {window} and {top_k} {}", span(tokens, before));
    Case::new(name, work, move |gpu, copies| make_attended(gpu, copies, c, tokens, before))
}

fn make_attended(gpu: &Gpu, copies: usize, c: Compressed, tokens: usize, before: usize) -> Result<Made> {
    let Compressed { heads, head_dim, rope_dim, window, top_k, .. } = c;
    let mut random = Random::new(12);
    let (end, pairs) = (before + tokens, rope_dim / 2);
    let (window_rows, columns) = ((window + tokens).min(end), heads * head_dim);
    let turns = turns(&mut random, end, pairs);
    let rope = gpu.upload("rope", &turns)?;
    let sinks = random.floats(heads);
    let scale = 1.0 / (head_dim as f32).sqrt();
    let attention = CompressedAttention {
        heads,
        head_dim,
        rope_dim,
        scale,
        window,
        ratio: Some(RATIO),
        sinks: gpu.upload("sinks", &sinks)?,
        norm: Norm { weight: gpu.upload("norm", &vec![1f32; head_dim])?, columns: head_dim, eps: 1e-6 },
    };
    let lists: Vec<Vec<u32>> =
        (before..end).map(|p| twins::index_select(&random.floats((p + 1) / RATIO), top_k)).collect();
    let padded = lists.iter().flat_map(|list| list.iter().copied().chain(std::iter::repeat(0)).take(top_k));
    let selection = Selection { positions: gpu.upload("selected", &padded.collect::<Vec<u32>>())?, top_k };
    let (mut inputs, mut first) = (Vec::new(), None);
    for _ in 0..copies {
        let (q, rows) = (random.floats(tokens * columns), random.floats((window_rows + end / RATIO) * head_dim));
        let kv = cache(gpu, &rows, None, None)?;
        inputs.push((tensor(gpu, &q, columns)?, CompressedLayer { kv, window_rows, sums: None, index_sums: None }));
        first.get_or_insert((q, twins::round_f16(&rows)));
    }
    let (q, rows) = first.expect("a copy at least");
    let check = move |found: &Found| {
        let got: Vec<f32> = found.scratch("attended")?;
        let mut found_pairs = Vec::new();
        for token in spread(tokens, 4) {
            let own = before + token;
            let ring = ((own + 1).saturating_sub(window)..=own).map(|p| p % window_rows);
            let listed = lists[token].iter().map(|e| window_rows + *e as usize);
            let seen: Vec<&[f32]> = listed.chain(ring).map(|row| &rows[row * head_dim..][..head_dim]).collect();
            for head in spread(heads, 4) {
                let at = token * columns + head * head_dim;
                let turns = &turns[own * pairs..][..pairs];
                let want = twins::compressed_attention(&q[at..][..head_dim], &seen, scale, sinks[head], turns);
                found_pairs.extend(got[at..][..head_dim].iter().copied().zip(want));
            }
        }
        found.hold("attended", &found_pairs)
    };
    let record = move |step: &mut Step, copy: usize| {
        let (q, cache) = &inputs[copy];
        step.compressed_attention(q, &attention, &rope, cache, Some(&selection)).map(drop)
    };
    Ok(Made::new(copies, tokens, before, record, check))
}
