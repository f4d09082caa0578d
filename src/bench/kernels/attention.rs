//! Attention over a cache: in groups of heads, over latents, and the indexer that picks positions for the latter.

use super::Work;
use super::operators::{Case, Chosen};
use super::rig::{Found, Made, cache, halves, spread, tensor};
use super::sizes::{Grouped, Index, Latent, Sizes};
use super::weights::Pool;
use crate::bench::{Random, Result};
use crate::formats::Format;
use crate::gpu::{Gpu, View};
use crate::ops::{Attention, Indexer, KvLayer, LatentAttention, LatentInputs, Norm, RopePairs, Step, Tensor, twins};

pub fn decode(s: &Sizes, _: &Chosen) -> Vec<Case> {
    s.attention.iter().map(|g| grouped(*g, 1, s.cached)).collect()
}

pub fn prefill(s: &Sizes, _: &Chosen) -> Vec<Case> {
    s.attention.iter().map(|g| grouped(*g, s.prefill, 0)).collect()
}

/// A decode step, and a prefill.
pub fn latent(s: &Sizes, chosen: &Chosen) -> Vec<Case> {
    let of = |l: &Latent| -> Vec<Case> {
        let formats = chosen.formats(&[Format::Q8_0]);
        formats
            .iter()
            .flat_map(|f| [(1, s.cached), (s.prefill, 0)].map(|(t, before)| latents(*l, *f, t, before)))
            .collect()
    };
    s.latent.iter().flat_map(of).collect()
}

pub fn index(s: &Sizes, _: &Chosen) -> Vec<Case> {
    let of = |ix: &Index| [(1, s.cached), (s.prefill, s.cached)].map(|(tokens, before)| indexed(*ix, tokens, before));
    s.index.iter().flat_map(of).collect()
}

/// `on 8192` of a decode step, `by 512` of a prefill.
pub fn span(tokens: usize, before: usize) -> String {
    match (tokens, before) {
        (1, before) => format!("on {}", before + 1),
        (tokens, 0) => format!("by {tokens}"),
        (tokens, before) => format!("by {tokens} on {}", before + tokens),
    }
}

/// (query, key) pairs of causal attention.
fn pairs(tokens: usize, before: usize) -> usize {
    tokens * before + tokens * (tokens + 1) / 2
}

/// Causal attention of `tokens` tokens after `before` cached ones, keys and values in f16.
fn grouped(g: Grouped, tokens: usize, before: usize) -> Case {
    let Grouped { heads, kv_heads, head_dim } = g;
    let kept = 2 * (before + tokens) * kv_heads * head_dim * 2;
    let work = Work {
        kept: kept as u64,
        bytes: (kept + 2 * tokens * heads * head_dim * 4) as u64,
        flops: (4 * heads * head_dim * pairs(tokens, before)) as u64,
    };
    let name = format!("f16 {heads}/{kv_heads}x{head_dim} {}", span(tokens, before));
    Case::new(name, work, move |gpu, copies| make_grouped(gpu, copies, g, tokens, before))
}

fn make_grouped(gpu: &Gpu, copies: usize, g: Grouped, tokens: usize, before: usize) -> Result<Made> {
    let Grouped { heads, kv_heads, head_dim } = g;
    let mut random = Random::new(3);
    let values = (before + tokens) * kv_heads * head_dim;
    let (mut inputs, mut first) = (Vec::new(), None);
    for _ in 0..copies {
        let q = random.floats(tokens * heads * head_dim);
        let (k, v) = (random.floats(values), random.floats(values));
        inputs.push((tensor(gpu, &q, heads * head_dim)?, cache(gpu, &k, Some(&v), None)?));
        first.get_or_insert((q, twins::round_f16(&k), twins::round_f16(&v)));
    }
    let (q, k, v) = first.expect("a copy at least");
    let scale = 1.0 / (head_dim as f32).sqrt();
    let attention = Attention { heads, kv_heads, head_dim, scale, window: None, sinks: None };
    let check = move |found: &Found| {
        let got: Vec<f32> = found.scratch("attended")?;
        let mut pairs = Vec::new();
        for token in spread(tokens, 8) {
            for head in spread(heads, 4) {
                let at = (token * heads + head) * head_dim;
                let of = |all: &[f32]| -> Vec<f32> {
                    let rows = all.chunks_exact(kv_heads * head_dim);
                    rows.flat_map(|row| row[head / (heads / kv_heads) * head_dim..][..head_dim].to_vec()).collect()
                };
                let (q, k, v) = (&q[at..][..head_dim], of(&k), of(&v));
                let want = twins::attention(q, &k, &v, 1, 1, head_dim, scale, before + token, None, None);
                pairs.extend(got[at..][..head_dim].iter().copied().zip(want));
            }
        }
        found.hold("attended", &pairs)
    };
    let record = move |step: &mut Step, copy: usize| {
        let (q, cache) = &inputs[copy];
        step.attention(q, &attention, cache).map(drop)
    };
    Ok(Made::new(copies, tokens, before, record, check))
}

/// Cosines and sines of random angles, [positions, pairs].
pub fn turns(random: &mut Random, positions: usize, pairs: usize) -> Vec<[f32; 2]> {
    let angles = (0..positions * pairs).map(|_| 3.0 * random.float());
    angles.map(|angle| [angle.cos(), angle.sin()]).collect()
}

/// Absorbed queries, attention over latents in f16, and the values made of its result.
fn latents(l: Latent, format: Format, tokens: usize, before: usize) -> Case {
    let Latent { heads, rank, rope_dim, nope, value_dim } = l;
    let (key_dim, query_dim) = (rank + rope_dim, nope + rope_dim);
    let row = |columns: usize| columns / format.block() * format.block_bytes();
    let kept = heads * (rank * row(nope) + value_dim * row(rank)) + (before + tokens) * key_dim * 2;
    let products = 2 * tokens * heads * rank * (nope + value_dim);
    let work = Work {
        kept: kept as u64,
        bytes: (kept + 4 * tokens * (heads * (query_dim + value_dim) + key_dim)) as u64,
        flops: (products + 2 * heads * (key_dim + rank) * pairs(tokens, before)) as u64,
    };
    let name = format!("{format} {heads}x{rank}+{rope_dim} {}", span(tokens, before));
    let make = move |gpu: &Gpu, copies: usize| make_latents(gpu, copies, l, format, tokens, before);
    Case::new(name, work, make).of(format, &[nope, rank])
}

fn make_latents(gpu: &Gpu, copies: usize, l: Latent, format: Format, tokens: usize, before: usize) -> Result<Made> {
    let Latent { heads, rank, rope_dim, nope, value_dim } = l;
    let (key_dim, columns, pairs) = (rank + rope_dim, heads * (nope + rope_dim), rope_dim / 2);
    let (by_nope, by_rank) = (Pool::new(format, nope), Pool::new(format, rank));
    let mut random = Random::new(4);
    let scale = 1.0 / ((nope + rope_dim) as f32).sqrt();
    let turns = turns(&mut random, before + tokens, pairs);
    let rope = gpu.upload("rope", &turns)?;
    let weight = vec![1.0; rank];
    let eps = 1e-6;
    let (mut inputs, mut first) = (Vec::new(), None);
    for copy in 0..copies {
        let (q, a) = (random.floats(tokens * columns), random.floats(tokens * key_dim));
        let mut rows = random.floats(before * key_dim);
        rows.resize((before + tokens) * key_dim, 0.0);
        let attention = LatentAttention {
            heads,
            rank,
            rope_dim,
            scale,
            norm: Norm { weight: gpu.upload("norm", &weight)?, columns: rank, eps },
            k_b: by_nope.stack(gpu, copy, heads, rank)?,
            v_b: by_rank.stack(gpu, copy, heads, value_dim)?,
        };
        inputs.push((tensor(gpu, &q, columns)?, tensor(gpu, &a, key_dim)?, cache(gpu, &rows, None, None)?, attention));
        first.get_or_insert(q);
    }
    let (q, held) = (first.expect("a copy at least"), inputs[0].2.k.clone());
    let check = move |found: &Found| {
        let (got, rows): (Vec<f32>, _) = (found.scratch("values")?, halves(found, &held)?);
        let mut pairs_found = Vec::new();
        for head in spread(heads, 4) {
            let of = |pool: &Pool, count: usize| -> Vec<f32> {
                (0..count).flat_map(|row| pool.row(0, head * count + row)).collect()
            };
            let (k_b, v_b) = (of(&by_nope, rank), of(&by_rank, value_dim));
            let one = twins::Latent { heads: 1, rank, rope_dim, scale, norm: (&weight, eps), k_b: &k_b, v_b: &v_b };
            for token in spread(tokens, 4) {
                let q = &q[token * columns + head * (nope + rope_dim)..][..nope + rope_dim];
                let (position, all) = (before + token, &|_, _| true);
                let want = twins::latent_attention(q, &rows, &one, &turns[position * pairs..], position, all);
                let at = (token * heads + head) * value_dim;
                pairs_found.extend(got[at..][..value_dim].iter().copied().zip(want));
            }
        }
        found.hold("values", &pairs_found)
    };
    let record = move |step: &mut Step, copy: usize| {
        let (q, a, cache, attention) = &inputs[copy];
        let inputs = LatentInputs { q, a, at: 0, rope: &rope, selection: None };
        step.latent_attention(&inputs, attention, cache).map(drop)
    };
    Ok(Made::new(copies, tokens, before, record, check))
}

/// Keys and queries turned, scores of all positions, and the best of them.
fn indexed(ix: Index, tokens: usize, before: usize) -> Case {
    let Index { heads, head_dim, top_k, .. } = ix;
    let kept = (before + tokens) * head_dim * 2;
    let work = Work {
        kept: kept as u64,
        bytes: (kept + 4 * tokens * (2 * heads * head_dim + head_dim + heads + top_k)) as u64,
        flops: (2 * heads * head_dim * pairs(tokens, before)) as u64,
    };
    let name = format!("f16 {heads}x{head_dim} top {top_k} {}", span(tokens, before));
    Case::new(name, work, move |gpu, copies| make_indexed(gpu, copies, ix, tokens, before))
}

fn make_indexed(gpu: &Gpu, copies: usize, ix: Index, tokens: usize, before: usize) -> Result<Made> {
    let Index { heads, head_dim, rope_dim, top_k } = ix;
    let columns = head_dim + heads;
    let mut random = Random::new(5);
    let turns = turns(&mut random, before + tokens, rope_dim / 2);
    let rope = gpu.upload("rope", &turns)?;
    let norm = [vec![1f32; head_dim], vec![0f32; head_dim]];
    let norm = [gpu.upload("norm", &norm[0])?, gpu.upload("norm", &norm[1])?];
    let indexer = Indexer { heads, head_dim, rope_dim, pairs: RopePairs::Adjacent, top_k, norm, eps: 1e-6 };
    let (mut inputs, mut fresh) = (Vec::<(Tensor, Tensor, KvLayer)>::new(), None);
    for _ in 0..copies {
        let (q, a) = (random.floats(tokens * heads * head_dim), random.floats(tokens * columns));
        let mut keys = random.floats(before * head_dim);
        keys.resize((before + tokens) * head_dim, 0.0);
        let kv = cache(gpu, &keys[..head_dim.max(8)], None, Some(&keys))?;
        inputs.push((tensor(gpu, &q, heads * head_dim)?, tensor(gpu, &a, columns)?, kv));
        fresh.get_or_insert((q, a));
    }
    let (q, a) = fresh.expect("a copy at least");
    let turned: View = inputs[0].0.view.clone();
    let (qs, keys) = (turned.clone(), inputs[0].2.index.clone().expect("of an indexer"));
    let check = move |found: &Found| {
        let (q, keys): (Vec<f32>, _) = (found.read(&qs)?, halves(found, &keys)?);
        let selected: Vec<u32> = found.scratch("selected")?;
        let mut pairs = Vec::new();
        for token in spread(tokens, 2) {
            let weights = &a[token * columns + head_dim..][..heads];
            let (q, seen) = (&q[token * heads * head_dim..][..heads * head_dim], before + token + 1);
            let scores = twins::index_scores(q, weights, &keys[..seen * head_dim]);
            let best = twins::index_select(&scores, top_k);
            let got = &selected[token * top_k..][..best.len()];
            if !got.is_sorted_by(|a, b| a < b) || got[got.len() - 1] as usize >= seen {
                return Err(found.wrong(format!("token {token}: positions that do not rise, or beyond its own")));
            }
            // Equal but for rounding: positions may differ where their scores do not.
            let sorted = |positions: &[u32]| {
                let mut all: Vec<f32> = positions.iter().map(|p| scores[*p as usize]).collect();
                all.sort_by(f32::total_cmp);
                all
            };
            pairs.extend(sorted(got).into_iter().zip(sorted(&best)));
        }
        found.hold("scores selected", &pairs)
    };
    let record = move |step: &mut Step, copy: usize| {
        let (q, a, kv) = &inputs[copy];
        step.index(q, a, [0, head_dim], &indexer, &rope, kv).map(drop)
    };
    Ok(Made::new(copies, tokens, before, record, check).fresh(&turned, &q))
}
