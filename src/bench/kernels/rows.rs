//! Operators without matrix products: what happens to rows between them.

use super::Work;
use super::attention::turns;
use super::operators::{Case, Chosen};
use super::rig::{Found, Made, cache, halves, spread, state, tensor};
use super::sizes::{Grouped, Mixed, Rows, Sizes};
use super::weights::Pool;
use crate::bench::{Random, Result};
use crate::formats::Format;
use crate::gpu::Gpu;
use crate::ops::{
    BLOCK_WORDS, DeltaHeads, DeltaNet, Heads, Norm, RecurrentLayer, RopePairs, SampleBuffers, Scoring, SigmoidRouter,
    Step, twins,
};
use crate::session::State;

/// Tokens that are held against the twin.
const TOKENS: usize = 8;

/// A decode step and a prefill of what `of` tells.
fn both<T: Copy>(of: Option<T>, s: &Sizes, case: impl Fn(T, usize) -> Case) -> Vec<Case> {
    of.iter().flat_map(|t| [case(*t, 1), case(*t, s.prefill)]).collect()
}

/// Floats moved, nothing kept.
fn moving(floats: usize) -> Work {
    Work { kept: 4 * floats as u64, bytes: 4 * floats as u64, flops: 0 }
}

fn by(tokens: usize) -> String {
    if tokens == 1 { String::new() } else { format!(" by {tokens}") }
}

/// Rows of the embedding table.
pub fn embed(s: &Sizes, chosen: &Chosen) -> Vec<Case> {
    let (formats, memory) = (chosen.formats(&[Format::Q4K]), chosen.memory as usize);
    let case = |(rows, format): (Rows, Format), tokens: usize| {
        let row = rows.hidden / format.block() * format.block_bytes();
        // Of a table that is too large for the memory as many rows as fit.
        let vocabulary = rows.vocabulary.min(memory / row.max(1)).max(tokens);
        let work = Work { kept: (vocabulary * row) as u64, bytes: (tokens * (row + 4 * rows.hidden)) as u64, flops: 0 };
        let name = format!("{format} {vocabulary}x{}{}", rows.hidden, by(tokens));
        let make = move |gpu: &Gpu, copies: usize| make_embed(gpu, copies, format, [vocabulary, rows.hidden], tokens);
        Case::new(name, work, make).of(format, &[rows.hidden])
    };
    formats.iter().flat_map(|format| both(s.rows.map(|rows| (rows, *format)), s, case)).collect()
}

fn make_embed(gpu: &Gpu, copies: usize, format: Format, [rows, columns]: [usize; 2], tokens: usize) -> Result<Made> {
    let pool = Pool::new(format, columns);
    let tables = (0..copies).map(|copy| pool.matrix(gpu, copy, rows)).collect::<Result<Vec<_>>>()?;
    let mut random = Random::new(6);
    let ids: Vec<u32> = (0..tokens).map(|_| random.below(rows) as u32).collect();
    let asked = ids.clone();
    let check = move |found: &Found| {
        let got: Vec<f32> = found.scratch("x")?;
        let row =
            |token: usize| got[token * columns..][..columns].iter().copied().zip(pool.row(0, asked[token] as usize));
        found.hold("x", &spread(tokens, TOKENS).flat_map(row).collect::<Vec<_>>())
    };
    let record = move |step: &mut Step, copy: usize| step.embed(&tables[copy], 1.0).map(drop);
    Ok(Made { ids, ..Made::new(copies, tokens, 0, record, check) })
}

/// RMSNorm.
pub fn norm(s: &Sizes, _: &Chosen) -> Vec<Case> {
    both(s.rows, s, |rows, tokens| {
        let columns = rows.hidden;
        Case::new(format!("{columns}{}", by(tokens)), moving(2 * tokens * columns), move |gpu, copies| {
            let (xs, first) = inputs(gpu, copies, tokens, columns)?;
            let weight: Vec<f32> = Random::new(7).floats(columns).iter().map(|w| 1.0 + 0.2 * w).collect();
            let norm = Norm { weight: gpu.upload("norm", &weight)?, columns, eps: 1e-6 };
            let check = move |found: &Found| {
                let (got, want) = (found.scratch::<f32>("normed")?, twins::rms_norm(&first, &weight, 1e-6));
                found.hold("normed", &got.into_iter().zip(want).collect::<Vec<_>>())
            };
            let record = move |step: &mut Step, copy: usize| step.rms_norm(&xs[copy], &norm).map(drop);
            Ok(Made::new(copies, tokens, 0, record, check))
        })
    })
}

/// Random rows for each copy, and those of the first.
fn inputs(gpu: &Gpu, copies: usize, tokens: usize, columns: usize) -> Result<(Vec<crate::ops::Tensor>, Vec<f32>)> {
    let mut random = Random::new(8);
    let all: Vec<Vec<f32>> = (0..copies).map(|_| random.floats(tokens * columns)).collect();
    let tensors = all.iter().map(|x| tensor(gpu, x, columns)).collect::<Result<_>>()?;
    Ok((tensors, all.into_iter().next().expect("a copy at least")))
}

/// Activations rounded for integer dot products.
pub fn quantise(s: &Sizes, _: &Chosen) -> Vec<Case> {
    both(s.rows, s, |rows, tokens| {
        let columns = rows.hidden / 32 * 32;
        let work = moving(tokens * (columns + columns / 32 * BLOCK_WORDS));
        Case::new(format!("{columns}{}", by(tokens)), work, move |gpu, copies| {
            let (xs, first) = inputs(gpu, copies, tokens, columns)?;
            let check = move |found: &Found| {
                let (got, want) = (found.scratch::<u32>("quantised")?, twins::quantise(&first));
                match (0..want.len()).find(|i| got[*i] != want[*i]) {
                    Some(at) => Err(found.wrong(format!("word {at} is {:#x} instead of {:#x}", got[at], want[at]))),
                    None => Ok(0.0),
                }
            };
            let record = move |step: &mut Step, copy: usize| step.quantise(&xs[copy]).map(drop);
            Ok(Made::new(copies, tokens, 0, record, check))
        })
    })
}

/// Norms of q and k, rotation, and the cache write.
pub fn heads(s: &Sizes, _: &Chosen) -> Vec<Case> {
    both(s.attention, s, |g, tokens| {
        let Grouped { heads, kv_heads, head_dim } = g;
        let floats = tokens * head_dim * (2 * heads + 2 * kv_heads);
        let written = (tokens * head_dim * 2 * kv_heads * 2) as u64;
        let work = Work { kept: 4 * floats as u64, bytes: 4 * floats as u64 + written, flops: 0 };
        let name = format!("f16 {heads}/{kv_heads}x{head_dim}{}", by(tokens));
        Case::new(name, work, move |gpu, copies| make_heads(gpu, copies, g, tokens))
    })
}

fn make_heads(gpu: &Gpu, copies: usize, g: Grouped, tokens: usize) -> Result<Made> {
    let Grouped { heads, kv_heads, head_dim } = g;
    let columns = (heads + 2 * kv_heads) * head_dim;
    let (xs, first) = inputs(gpu, copies, tokens, columns)?;
    let mut random = Random::new(9);
    let turns = turns(&mut random, tokens, head_dim / 2);
    let rope = gpu.upload("rope", &turns)?;
    let weight = vec![1f32; head_dim];
    let norm = Norm { weight: gpu.upload("norm", &weight)?, columns: head_dim, eps: 1e-6 };
    let zeros = vec![0.0; tokens * kv_heads * head_dim];
    let kv = cache(gpu, &zeros, Some(&zeros), None)?;
    let keys = kv.k.clone();
    let check = move |found: &Found| {
        let (q, k) = (found.scratch::<f32>("q")?, halves(found, &keys)?);
        let (mut qs, mut ks) = (Vec::new(), Vec::new());
        for token in spread(tokens, TOKENS) {
            let row = &first[token * columns..][..columns];
            let want = |head: usize| {
                let turns = &turns[token * head_dim / 2..][..head_dim / 2];
                twins::head(&row[head * head_dim..][..head_dim], Some((&weight, 1e-6)), turns, RopePairs::HalfSplit)
            };
            for head in spread(heads, 4) {
                qs.extend(q[(token * heads + head) * head_dim..].iter().copied().zip(want(head)));
            }
            for head in 0..kv_heads {
                let want = twins::round_f16(&want(heads + head));
                ks.extend(k[(token * kv_heads + head) * head_dim..].iter().copied().zip(want));
            }
        }
        Ok(found.hold("q", &qs)?.max(found.hold("k", &ks)?))
    };
    let record = move |step: &mut Step, copy: usize| {
        let geometry = Heads {
            heads,
            kv_heads,
            head_dim,
            at: [0, heads * head_dim, (heads + kv_heads) * head_dim],
            qk_norm: Some((&norm, &norm)),
            v_norm: false,
            pairs: RopePairs::HalfSplit,
            rope: &rope,
            rope_dim: head_dim,
            temperature: None,
        };
        step.heads(&xs[copy], &geometry, &kv).map(drop)
    };
    Ok(Made::new(copies, tokens, 0, record, check))
}

/// The choice of experts: by softmax, or by sigmoids among groups.
pub fn router(s: &Sizes, _: &Chosen) -> Vec<Case> {
    both(s.mixture, s, |m, tokens| {
        let groups = m.groups.map_or(String::new(), |(all, used)| format!(" in {used} of {all} groups"));
        let name = format!("{} of {}{groups}{}", m.used, m.experts, by(tokens));
        Case::new(name, moving(tokens * (m.experts + 2 * m.used)), move |gpu, copies| {
            make_router(gpu, copies, m, tokens)
        })
    })
}

fn make_router(gpu: &Gpu, copies: usize, m: Mixed, tokens: usize) -> Result<Made> {
    let Mixed { experts, used, .. } = m;
    let (xs, first) = inputs(gpu, copies, tokens, experts)?;
    let scoring = Scoring::Sigmoid;
    let router =
        |groups| SigmoidRouter { bias: None, scoring, ranks: used, renormalise: true, scale: 1.0, groups, shared: 0 };
    let sigmoid = m.groups.map(router);
    let check = move |found: &Found| {
        let (routed, gates) = (found.scratch::<u32>("routed")?, found.scratch::<f32>("gates")?);
        let (want, weights) = match m.groups {
            Some(groups) => {
                let (renormalise, scale, shared) = (true, 1.0, 0);
                let sigmoids =
                    twins::Sigmoids { experts, bias: None, scoring, ranks: used, renormalise, scale, groups, shared };
                twins::router_sigmoid(&first, sigmoids)
            }
            None => twins::router(&first, experts, used, true),
        };
        match (0..want.len()).find(|i| routed[*i] != want[*i]) {
            Some(at) => Err(found.wrong(format!("choice {at} is {} instead of {}", routed[at], want[at]))),
            None => found.hold("gates", &gates.into_iter().zip(weights).collect::<Vec<_>>()),
        }
    };
    let record = move |step: &mut Step, copy: usize| match &sigmoid {
        Some(router) => step.route_sigmoid(&xs[copy], router).map(drop),
        None => step.route_softmax(&xs[copy], used, true).map(drop),
    };
    Ok(Made::new(copies, tokens, 0, record, check))
}

/// A token drawn from logits.
pub fn sample(s: &Sizes, _: &Chosen) -> Vec<Case> {
    let case = |rows: &Rows| {
        let vocabulary = rows.vocabulary;
        Case::new(vocabulary.to_string(), moving(vocabulary), move |gpu, copies| make_sample(gpu, copies, vocabulary))
    };
    s.rows.iter().map(case).collect()
}

fn make_sample(gpu: &Gpu, copies: usize, vocabulary: usize) -> Result<Made> {
    let (xs, first) = inputs(gpu, copies, 1, vocabulary)?;
    let buffers = SampleBuffers::new(gpu, vocabulary)?;
    let options = State { temperature: 0.8, top_k: 40, top_p: 0.95, min_p: 0.05, seed: 77, ..state(0) };
    let check = move |found: &Found| {
        let (after, history) = found.state()?;
        let State { temperature, top_k, top_p, min_p, repeat_penalty, .. } = options;
        let s = twins::Sampling { temperature, top_k, top_p, min_p, repeat_penalty, repeat_last: 0 };
        let odds = twins::distribution(&first, &s);
        let u = twins::random(options.seed, after.position);
        // Within rounding of a boundary either side is right.
        let near = [-1e-5, 0.0, 1e-5].map(|d| twins::draw(&odds, u + d));
        match near.contains(&after.last) && history[after.position as usize] == after.last {
            true => Ok(0.0),
            false => Err(found.wrong(format!("drew {} instead of {}", after.last, near[1]))),
        }
    };
    let record = move |step: &mut Step, copy: usize| step.sample(&xs[copy], &buffers);
    Ok(Made { state: options, ids: vec![1], ..Made::new(copies, 1, 0, record, check) })
}

/// A gated delta net's convolution and rule, with states from before; in prefill in chunks, and token by token.
pub fn delta(s: &Sizes, _: &Chosen) -> Vec<Case> {
    let Some(h) = s.delta else { return vec![] };
    let case = |tokens: usize, chunked: bool| {
        let states: usize = h.state().iter().sum();
        let columns = h.channels() + h.inner() + 2 * h.value_heads;
        let work = Work {
            kept: 4 * states as u64,
            bytes: 4 * (2 * states + tokens * (columns + h.inner())) as u64,
            flops: (tokens * (7 * h.inner() * h.key_dim + 2 * h.channels() * h.taps)) as u64,
        };
        let form = if tokens > 1 && !chunked { ", a scan" } else { "" };
        let name = format!("{}/{}x{}x{}{}{form}", h.value_heads, h.key_heads, h.key_dim, h.value_dim, by(tokens));
        Case::new(name, work, move |gpu, copies| make_delta(gpu, copies, h, tokens, chunked))
    };
    vec![case(1, false), case(s.prefill, true), case(s.prefill, false)]
}

fn make_delta(gpu: &Gpu, copies: usize, h: DeltaHeads, tokens: usize, chunked: bool) -> Result<Made> {
    let (channels, inner) = (h.channels(), h.inner());
    let at = [channels, channels + inner, channels + inner + h.value_heads];
    let columns = at[2] + h.value_heads;
    let (xs, first) = inputs(gpu, copies, tokens, columns)?;
    let mut random = Random::new(10);
    let [conv, state] = h.state();
    let (past, before) = (random.floats(conv), random.floats(state));
    let layers = (0..copies)
        .map(|_| Ok(RecurrentLayer { conv: gpu.upload("past", &past)?, delta: gpu.upload("delta", &before)? }))
        .collect::<Result<Vec<_>>>()?;
    let taps = random.floats(h.taps * channels);
    let decay: Vec<[f32; 2]> = (0..h.value_heads).map(|_| [-0.5, random.float()]).collect();
    let weight = vec![1f32; h.value_dim];
    let norm = Norm { weight: gpu.upload("norm", &weight)?, columns: h.value_dim, eps: 1e-6 };
    let net = DeltaNet { heads: h, at, taps: gpu.upload("taps", &taps)?, gates: gpu.upload("gates", &decay)?, norm };
    let views = (layers[0].conv.clone(), layers[0].delta.clone());
    let (past_then, before_then) = (past.clone(), before.clone());
    let check = move |found: &Found| {
        let got: Vec<f32> = found.scratch("delta")?;
        let part = |at: usize, len: usize| -> Vec<f32> {
            first.chunks_exact(columns).flat_map(|row| row[at..][..len].to_vec()).collect()
        };
        let qkv = twins::short_conv(&part(0, channels), &past, &taps, &h);
        let mut pairs = Vec::new();
        for head in spread(h.value_heads, 2) {
            let (lone, qkv) = alone(&h, &qkv, head);
            let (z, b, a) =
                (part(at[0] + head * h.value_dim, h.value_dim), part(at[1] + head, 1), part(at[2] + head, 1));
            let gates = twins::DeltaGates { z: &z, b: &b, a: &a, decay: &decay[head..=head], norm: &weight, eps: 1e-6 };
            let size = h.key_dim * h.value_dim;
            let mut states: Vec<f64> = before[head * size..][..size].iter().map(|s| f64::from(*s)).collect();
            let want = twins::delta_net(&qkv, &gates, &lone, &mut states);
            let of_head = got.chunks_exact(inner).flat_map(|row| row[head * h.value_dim..][..h.value_dim].to_vec());
            pairs.extend(of_head.zip(want));
        }
        found.hold("out", &pairs)
    };
    let delta_chunked = if chunked { 1 } else { usize::MAX };
    let record = move |step: &mut Step, copy: usize| {
        step.tune(|tuning| tuning.delta_chunked = delta_chunked);
        step.delta_net(&xs[copy], &net, &layers[copy]).map(drop)
    };
    // As many positions as the convolution sees have passed.
    let made = Made::new(copies, tokens, 700, record, check);
    Ok(made.fresh(&views.0, &past_then).fresh(&views.1, &before_then))
}

/// One value head by itself: its geometry, and its q, k and v of each token.
fn alone(h: &DeltaHeads, qkv: &[f32], head: usize) -> (DeltaHeads, Vec<f32>) {
    let key = head / (h.value_heads / h.key_heads) * h.key_dim;
    let keys = h.key_heads * h.key_dim;
    let parts = [(key, h.key_dim), (keys + key, h.key_dim), (2 * keys + head * h.value_dim, h.value_dim)];
    let row = |row: &[f32]| parts.map(|(at, len)| row[at..][..len].to_vec()).concat();
    let lone = DeltaHeads { key_heads: 1, value_heads: 1, ..*h };
    (lone, qkv.chunks_exact(h.channels()).flat_map(row).collect())
}
