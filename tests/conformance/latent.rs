//! Latent attention: the cache's row, absorbed queries, attention over latents, and the values made of its result.

use crate::cache::{self, Cut};
use crate::rig::*;
use halogen::formats::Format;
use halogen::ops::{Arithmetic, KvFormat, KvLayer, KvUse, LatentAttention, LatentInputs, Product, Selection, twins};

#[derive(Clone, Copy)]
struct Geometry {
    heads: usize,
    rank: usize,
    rope_dim: usize,
    nope: usize,
    value_dim: usize,
    tokens: usize,
    position: usize,
    format: Format,
    shards: usize,
    /// Positions that each token sees at most, some of those up to its own.
    top_k: Option<usize>,
}

pub fn cases(cases: &mut Vec<Case>) {
    use Format::*;
    let small = Geometry {
        heads: 4,
        rank: 32,
        rope_dim: 16,
        nope: 32,
        value_dim: 32,
        tokens: 1,
        position: 0,
        format: F16,
        shards: 1,
        top_k: None,
    };
    for (tokens, position) in [(1, 0), (1, 39), (1, 1100), (2, 0), (7, 14), (33, 100), (129, 3)] {
        for (heads, format, shards) in [(4, F16, 1), (3, Q8_0, 2), (20, F32, 3), (16, BF16, 1)] {
            for f16 in [true, false] {
                add(cases, Geometry { heads, format, shards, tokens, position, ..small }, f16);
            }
        }
        add(cases, Geometry { rank: 20, rope_dim: 4, nope: 12, value_dim: 36, tokens, position, ..small }, false);
    }
    for (heads, tokens, position, top_k) in
        [(4, 1, 300, 16), (20, 1, 1100, 128), (4, 40, 0, 16), (20, 7, 100, 33), (3, 33, 130, 1000), (4, 1, 4096, 2048)]
    {
        for f16 in [true, false] {
            add(cases, Geometry { heads, tokens, position, top_k: Some(top_k), ..small }, f16);
        }
    }
    // Sizes of real models: DeepSeek-V3's once in full, then with narrower heads; twice its heads; GLM-5's heads.
    let large = Geometry { heads: 128, rank: 512, rope_dim: 64, nope: 128, value_dim: 128, format: Q8_0, ..small };
    add(cases, Geometry { position: 112, ..large }, true);
    let narrow = Geometry { nope: 32, value_dim: 32, ..large };
    for (tokens, position) in [(1, 0), (1, 700), (3, 126)] {
        add(cases, Geometry { tokens, position, ..narrow }, position == 0);
    }
    add(cases, Geometry { heads: 20, position: 4096, ..narrow }, true);
    add(cases, Geometry { heads: 8, nope: 192, value_dim: 256, format: Q4_0, position: 1500, ..large }, true);
    add(
        cases,
        Geometry { heads: 8, nope: 192, value_dim: 256, format: Q5_1, tokens: 9, position: 300, ..large },
        false,
    );
    add(cases, Geometry { heads: 64, position: 2100, top_k: Some(2048), ..narrow }, true);
    add(cases, Geometry { heads: 256, position: 64, ..narrow }, false);
    // More tokens than have their queries absorbed at once.
    add(cases, Geometry { heads: 256, tokens: 67, ..narrow }, true);
}

/// Decode and prefill with a published model's sizes: heads, the latent and what turns, what does not, and values.
pub fn of_model(cases: &mut Vec<Case>, [heads, rank, rope_dim, nope, value_dim]: [usize; 5]) {
    for (tokens, position) in [(1, 100), (9, 30)] {
        let format = Format::Q8_0;
        let (shards, top_k) = (1, None);
        let g = Geometry { heads, rank, rope_dim, nope, value_dim, tokens, position, format, shards, top_k };
        add(cases, g, true);
    }
}

fn add(cases: &mut Vec<Case>, g: Geometry, f16: bool) {
    let wide = (g.rank + g.rope_dim).is_multiple_of(32);
    let formats = [if f16 { KvFormat::F16 } else { KvFormat::F32 }, KvFormat::Q8_0];
    for format in formats.into_iter().take(1 + usize::from(wide)) {
        add_in(cases, g, format);
    }
}

fn add_in(cases: &mut Vec<Case>, g: Geometry, format: KvFormat) {
    let name = format!(
        "latent/{}/heads={}/rank={}+{}/nope={}/value={}/tokens={}/position={}/shards={}{}/{}",
        g.format,
        g.heads,
        g.rank,
        g.rope_dim,
        g.nope,
        g.value_dim,
        g.tokens,
        g.position,
        g.shards,
        g.top_k.map_or(String::new(), |top_k| format!("/top={top_k}")),
        cache::name(format),
    );
    // The products of heads differ by tier.
    let many = g.tokens > 1 && g.format == Format::Q8_0 && format == KvFormat::F16;
    for &cut in cache::shards(g.heads == 4) {
        let case = Case::new(name.clone() + &cache::in_shards(cut), move |setup| g.run(setup, format, cut));
        cases.push(if many { case.of_product(Product::of(g.tokens), g.format) } else { case });
    }
}

impl Geometry {
    fn run(self, setup: &Setup, kept: KvFormat, cut: usize) -> Outcome {
        let Geometry { heads, rank, rope_dim, nope, value_dim, tokens, position, format, shards, top_k } = self;
        let random = &mut Random::new((heads * rank + tokens + position) as u64);
        let (key_dim, pairs, positions) = (rank + rope_dim, rope_dim / 2, position + tokens);
        // A gap before the latent: nothing may depend on the usual order.
        let (at, columns) = (8, key_dim + 12);
        let q = random.floats(tokens * heads * (nope + rope_dim));
        let a = random.floats(tokens * columns);
        let turns: Vec<[f32; 2]> = (0..positions * pairs)
            .map(|_| {
                let angle = 3.0 * random.float();
                [angle.cos(), angle.sin()]
            })
            .collect();
        let before = random.floats(position * key_dim);
        let k_b = Weights::random(random, format, heads * rank, nope);
        let v_b = Weights::random(random, format, heads * value_dim, rank);

        let mut rig = Rig::new(setup, tokens, State::at(position), &[]);
        let gpu = rig.gpu();
        let (norm, weight) = norm(gpu, random, rank);
        let eps = norm.eps;
        // Rows not written yet are NaN; with many of them decode has splits without a key.
        let spare = if position % 3 == 1 { 9000 } else { 100 };
        let held = cache::Rows { rows: positions + spare, heads: 1, dim: key_dim, format: kept };
        let cached = held.words(&before, |p| p);
        let on_device = Cut::new(gpu, cached.clone(), &held, cut, KvUse::Latents);
        let kv = KvLayer { k: on_device.rows.clone(), v: None, index: None, format: kept, ring: None };
        let scale = 1.0 / ((nope + rope_dim) as f32).sqrt();
        let stack = |w: &Weights| in_order(w, gpu, heads, shards);
        let l = LatentAttention { heads, rank, rope_dim, scale, norm, k_b: stack(&k_b), v_b: stack(&v_b) };
        rig.poison("values", tokens * heads * value_dim);
        let (qs, rows) = (tensor(gpu, &q, heads * (nope + rope_dim)), tensor(gpu, &a, columns));
        let rope = gpu.upload("rope", &turns).unwrap();
        // Lists as an indexer leaves them, what lies behind them anything.
        let lists: Option<Vec<Vec<u32>>> = top_k.map(|top_k| {
            let scores = |count: usize, random: &mut Random| -> Vec<f32> { random.floats(count) };
            (0..tokens).map(|t| twins::index_select(&scores(position + t + 1, random), top_k)).collect()
        });
        let selection = lists.as_ref().zip(top_k).map(|(lists, top_k)| {
            let padded =
                lists.iter().flat_map(|list| list.iter().copied().chain(std::iter::repeat(POISON)).take(top_k));
            Selection { positions: gpu.upload("selected", &padded.collect::<Vec<u32>>()).unwrap(), top_k }
        });
        let inputs = LatentInputs { q: &qs, a: &rows, at, rope: &rope, selection: selection.as_ref() };
        rig.run(|step| step.latent_attention(&inputs, &l, &kv).map(drop))?;

        let norm = (&weight[..], eps);
        let twin = twins::Latent { heads, rank, rope_dim, scale, norm, k_b: &k_b.values, v_b: &v_b.values };
        let new: Vec<f32> = (0..tokens)
            .flat_map(|t| {
                let turns = &turns[(position + t) * pairs..][..pairs];
                twins::latent_row(&a[t * columns + at..][..key_dim], &twin, turns)
            })
            .collect();
        let mut found = on_device.words(gpu);
        let got: Vec<f32> = (position..positions).flat_map(|p| held.take(&mut found, p)).collect();
        if found[..cached.len()] != cached {
            return Err("other rows of the cache were written".into());
        }
        // A value near the middle of two f16 may round either way: (2^-11)^2 of its power at most. One near the middle of two
        // integers too: a 127th of the largest, once in some thousand values.
        let bound = match kept {
            KvFormat::F32 => 1e-7,
            KvFormat::F16 => 2e-7,
            KvFormat::Q8_0 => 2e-5,
        };
        compare("row", &got, &twins::kept(&new, kept), key_dim, bound)?;
        // From here on what the device holds, so that no such value counts twice.
        let all = [twins::kept(&before, kept), got].concat();
        let sees = |t: usize, p: usize| lists.as_ref().is_none_or(|lists| lists[t].binary_search(&(p as u32)).is_ok());
        let want = twins::latent_attention(&q, &all, &twin, &turns[position * pairs..], position, &sees);
        let got = rig.floats("values", want.len())?;
        match setup.force {
            // Two products and what softmax makes of the first one's errors.
            Some(Arithmetic::F16 | Arithmetic::Matrix) => compare("values", &got, &want, want.len(), 8e-6),
            _ => compare("values", &got, &want, value_dim, 1e-7),
        }
    }
}
