//! DeepSeek-V4's attention: the window's rows, entries made of windows, and attention over both.

use crate::cache::{self, Cut};
use crate::rig::*;
use halogen::gpu::Gpu;
use halogen::ops::{
    CompressedAttention, CompressedLayer, Compressor, Entry, IndexQueries, KvFormat, KvLayer, KvUse, Selection, twins,
};

pub fn cases(cases: &mut Vec<Case>) {
    for (heads, head_dim, rope_dim, index) in
        [(4, 32, 16, Some((4, 64))), (1, 64, 64, None), (3, 20, 4, Some((1, 4))), (64, 512, 64, Some((64, 128)))]
    {
        for (tokens, position, window_rows) in [(1, 0, 40), (1, 70, 40), (7, 3, 40), (9, 36, 40), (9, 100, 300)] {
            for f16 in [true, false] {
                let g = Rows { heads, head_dim, rope_dim, index, tokens, position, window_rows, f16 };
                cases.push(Case::new(g.name(), move |setup| g.run(setup)));
            }
        }
    }
    for (ratio, overlap) in [(4, true), (128, false), (3, false), (5, true)] {
        for (head_dim, rope_dim) in [(32, 16), (12, 4), (512, 64)] {
            for (tokens, position) in [
                (1, 0),
                (1, 2),
                (1, 3),
                (1, 4),
                (1, 127),
                (1, 128),
                (2, 2),
                (4, 0),
                (4, 4),
                (5, 7),
                (9, 2),
                (33, 0),
                (130, 100),
                (300, 61),
            ] {
                let f16 = (tokens + position) % 2 == 0;
                let entry = if position % 3 == 0 { Entry::IndexKey } else { Entry::Row };
                let g = Windows { ratio, overlap, head_dim, rope_dim, tokens, position, f16, entry };
                if head_dim < 512 || tokens < 30 || ratio == 128 {
                    for &shards in cache::shards(tokens > 2 && head_dim < 512) {
                        let name = g.name() + &cache::in_shards(shards);
                        cases.push(Case::new(name, move |setup| g.run(setup, shards)));
                    }
                }
            }
        }
    }
    for (heads, head_dim) in [(4, 32), (20, 64), (64, 512)] {
        for (ratio, top_k) in [(None, None), (Some(4), Some(8)), (Some(4), Some(1000)), (Some(128), None)] {
            for (tokens, position) in [(1, 6), (1, 530), (1, 3000), (7, 1), (40, 90)] {
                let small = head_dim < 512 || (tokens == 1 && position > 100);
                let f16 = (tokens + position) % 2 == 1;
                let g = Attended { heads, head_dim, ratio, top_k, tokens, position, f16 };
                if small && (top_k != Some(1000) || position == 3000) {
                    for &shards in cache::shards(heads < 60) {
                        let name = g.name() + &cache::in_shards(shards);
                        cases.push(Case::new(name, move |setup| g.run(setup, shards)));
                    }
                }
            }
        }
    }
}

/// Cosines and sines of any angles.
fn turns(random: &mut Random, count: usize) -> Vec<[f32; 2]> {
    random.floats(count).iter().map(|x| [(3.0 * x).cos(), (3.0 * x).sin()]).collect()
}

/// Values as a cache holds them.
fn format_of(f16: bool) -> KvFormat {
    if f16 { KvFormat::F16 } else { KvFormat::F32 }
}

fn kept(values: &[f32], f16: bool) -> Vec<f32> {
    if f16 { twins::round_f16(values) } else { values.to_vec() }
}

/// A cache of such rows.
fn cut(gpu: &Gpu, rows: &[f32], dim: usize, f16: bool, shards: usize, reads: KvUse) -> Cut {
    let held = cache::Rows { rows: rows.len() / dim, heads: 1, dim, format: format_of(f16) };
    Cut::new(gpu, held.words(rows, |row| row), &held, shards, reads)
}

/// The values in a cache's words.
fn floats_of(words: &[u32], f16: bool) -> Vec<f32> {
    match f16 {
        true => bytemuck::cast_slice::<u32, half::f16>(words).iter().map(|x| x.to_f32()).collect(),
        false => words.iter().map(|word| f32::from_bits(*word)).collect(),
    }
}

/// Holds rows of a cache against the twin's, and the others against what they were.
fn compare_rows(got: &[f32], before: &[f32], want: &[(usize, Vec<f32>)], dim: usize, f16: bool) -> Outcome {
    for (row, (got, before)) in got.chunks(dim).zip(before.chunks(dim)).enumerate() {
        match want.iter().find(|(at, _)| *at == row) {
            // A value near the middle of two halves may round either way.
            Some((_, want)) => {
                compare(&format!("row {row}"), got, &kept(want, f16), dim, if f16 { 2e-7 } else { 1e-7 })?
            }
            None if got.iter().zip(before).any(|(a, b)| a.to_bits() != b.to_bits()) => {
                return Err(format!("row {row} of the cache was written"));
            }
            None => {}
        }
    }
    Ok(())
}

fn attention(
    rig: &Rig,
    random: &mut Random,
    sizes: [usize; 3],
    window: usize,
    ratio: Option<usize>,
) -> CompressedAttention {
    let [heads, head_dim, rope_dim] = sizes;
    let sinks = rig.gpu().upload("sinks", &random.floats(heads)).unwrap();
    let norm = norm(rig.gpu(), random, head_dim).0;
    CompressedAttention { heads, head_dim, rope_dim, scale: 1.0 / (head_dim as f32).sqrt(), window, ratio, sinks, norm }
}

/// Queries and the window's rows.
#[derive(Clone, Copy)]
struct Rows {
    heads: usize,
    head_dim: usize,
    rope_dim: usize,
    /// Heads of an indexer and their size.
    index: Option<(usize, usize)>,
    tokens: usize,
    position: usize,
    window_rows: usize,
    f16: bool,
}

impl Rows {
    fn name(&self) -> String {
        format!(
            "compressed/rows/heads={}x{}/turn={}/index={:?}/tokens={}/position={}/rows={}/{}",
            self.heads,
            self.head_dim,
            self.rope_dim,
            self.index,
            self.tokens,
            self.position,
            self.window_rows,
            if self.f16 { "f16" } else { "f32" }
        )
    }

    fn run(self, setup: &Setup) -> Outcome {
        let Rows { heads, head_dim, rope_dim, index, tokens, position, window_rows, f16 } = self;
        let random = &mut Random::new((heads * head_dim + tokens + position) as u64);
        let (pairs, at, columns) = (rope_dim / 2, 5, head_dim + 7);
        let (q, a) = (random.floats(tokens * heads * head_dim), random.floats(tokens * columns));
        let table = turns(random, (position + tokens) * pairs);
        let mut rig = Rig::new(setup, tokens, State::at(position), &[]);
        let c = attention(&rig, random, [heads, head_dim, rope_dim], window_rows - tokens, None);
        let weight: Vec<f32> = rig.gpu().blocking_read(&c.norm.weight).unwrap();
        let before = kept(&random.floats((window_rows + 3) * head_dim), f16);
        let k = cut(rig.gpu(), &before, head_dim, f16, 1, KvUse::Compressed);
        let cache = CompressedLayer {
            kv: KvLayer { k: k.rows.clone(), v: None, index: None, format: format_of(f16), ring: None },
            window_rows,
            sums: None,
            index_sums: None,
        };
        let (qs, rows) = (tensor(rig.gpu(), &q, heads * head_dim), tensor(rig.gpu(), &a, columns));
        let (index_heads, index_dim) = index.unwrap_or((1, 4));
        let index_q = random.floats(tokens * index_heads * index_dim);
        let index_on = tensor(rig.gpu(), &index_q, index_heads * index_dim);
        let rope = rig.gpu().upload("rope", &table).unwrap();
        let queries = index.map(|_| IndexQueries { q: &index_on, heads: index_heads });
        rig.run(|step| step.window_rows(&qs, (&rows, at), queries, &c, &rope, &cache))?;

        let own = |t: usize| &table[(position + t) * pairs..][..pairs];
        let want: Vec<f32> = q
            .chunks_exact(head_dim)
            .enumerate()
            .flat_map(|(i, q)| twins::tail_turned(q, None, c.norm.eps, own(i / heads)))
            .collect();
        let got = guarded(rig.gpu(), &qs.view, q.len())?;
        compare("q", bytemuck::cast_slice(&got), &want, head_dim, 1e-7)?;
        let row = |t: usize| {
            let row = &a[t * columns + at..][..head_dim];
            ((position + t) % window_rows, twins::tail_turned(row, Some(&weight), c.norm.eps, own(t)))
        };
        let want: Vec<_> = (0..tokens).map(row).collect();
        compare_rows(&floats_of(&k.words(rig.gpu()), f16), &before, &want, head_dim, f16)?;
        if index.is_some() {
            let turned = |(i, q): (usize, &[f32])| {
                let (still, tail) = q.split_at(index_dim - rope_dim);
                let turned = twins::head(tail, None, own(i / index_heads), halogen::ops::RopePairs::Adjacent);
                [still, &turned].concat()
            };
            let want: Vec<f32> = index_q.chunks_exact(index_dim).enumerate().flat_map(turned).collect();
            let got = guarded(rig.gpu(), &index_on.view, want.len())?;
            compare("index q", bytemuck::cast_slice(&got), &want, index_dim, 1e-7)?;
        }
        Ok(())
    }
}

/// Entries made of windows, and what windows that are not full come to.
#[derive(Clone, Copy)]
struct Windows {
    ratio: usize,
    overlap: bool,
    head_dim: usize,
    rope_dim: usize,
    tokens: usize,
    position: usize,
    f16: bool,
    entry: Entry,
}

impl Windows {
    fn name(&self) -> String {
        format!(
            "compressed/windows/ratio={}{}/dim={}/turn={}/tokens={}/position={}/{}",
            self.ratio,
            if self.overlap { "/overlap" } else { "" },
            self.head_dim,
            self.rope_dim,
            self.tokens,
            self.position,
            if self.f16 { "f16" } else { "f32" }
        )
    }

    fn run(self, setup: &Setup, shards: usize) -> Outcome {
        let Windows { ratio, overlap, head_dim, rope_dim, tokens, position, f16, entry } = self;
        let random = &mut Random::new((ratio * head_dim + tokens + position) as u64);
        let (pairs, width, end) = (rope_dim / 2, Compressor::width(head_dim, overlap), position + tokens);
        let values = random.floats(end * width);
        // Gates of which one outweighs the others, and of which none does.
        let gates: Vec<f32> =
            random.floats(end * width).iter().enumerate().map(|(i, x)| x * [1.0, 30.0][i % 2]).collect();
        let place = random.floats(ratio * width);
        let sums = |window: usize, before: usize| {
            twins::window_sums(&values[..before * width], &gates[..before * width], &place, head_dim, width, window)
        };
        let (at, columns) = ([2 * width + 3, 1], 3 * width + 5);
        let mut a = random.floats(tokens * columns);
        for (t, row) in a.chunks_exact_mut(columns).enumerate() {
            row[at[0]..][..width].copy_from_slice(&values[(position + t) * width..][..width]);
            row[at[1]..][..width].copy_from_slice(&gates[(position + t) * width..][..width]);
        }
        let table = turns(random, end * pairs);
        let mut rig = Rig::new(setup, tokens, State::at(position), &[]);
        let gpu = rig.gpu();
        let (norm, weight) = norm(gpu, random, head_dim);
        let eps = norm.eps;
        // Windows in which no token lies yet hold anything.
        let beside = usize::from(overlap);
        let begun = |window: usize, before: usize| before > (window - beside.min(window)) * ratio;
        let mut held: Vec<f32> = Vec::new();
        for window in position / ratio..=position / ratio + beside {
            let s = sums(window, position);
            let known = begun(window, position);
            let row = |x: &f64| if known { *x as f32 } else { f32::NAN };
            held.extend(s.high.iter().map(|x| row(&f64::from(*x))));
            held.extend(s.weights.iter().chain(&s.values).map(row));
        }
        let on_device = upload_guarded(gpu, "sums", &held);
        let first_row = if entry == Entry::Row { 11 } else { 0 };
        let before = kept(&random.floats((first_row + end / ratio + 2) * head_dim), f16);
        let keys = cut(gpu, &before, head_dim, f16, shards, KvUse::Index);
        let (row, index) =
            if entry == Entry::Row { (Some(on_device.clone()), None) } else { (None, Some(on_device.clone())) };
        let cache = CompressedLayer {
            kv: KvLayer {
                k: keys.rows.clone(),
                v: None,
                index: Some(keys.rows.clone()),
                format: format_of(f16),
                ring: None,
            },
            window_rows: 11,
            sums: row,
            index_sums: index,
        };
        let c = Compressor { ratio, overlap, head_dim, rope_dim, place: gpu.upload("place", &place).unwrap(), norm };
        let rows = tensor(gpu, &a, columns);
        let rope = gpu.upload("rope", &table).unwrap();
        rig.run(|step| step.compress(&rows, at, &c, &rope, &cache, entry))?;

        let full = position / ratio..end / ratio;
        let entry = |window: usize| {
            let turns = &table[window * ratio * pairs..][..pairs];
            (first_row + window, twins::compressed_entry(&sums(window, end), (&weight, eps), turns))
        };
        compare_rows(&floats_of(&keys.words(gpu), f16), &before, &full.map(entry).collect::<Vec<_>>(), head_dim, f16)?;
        let got: Vec<f32> = bytemuck::cast_vec(guarded(gpu, &on_device, held.len())?);
        for (i, got) in got.chunks_exact(3 * head_dim).enumerate() {
            let window = end / ratio + i;
            if begun(window, end) {
                let want = sums(window, end);
                let all = [want.weights, want.values].concat().iter().map(|x| *x as f32).collect::<Vec<_>>();
                compare(&format!("highest of window {window}"), &got[..head_dim], &want.high, head_dim, 1e-9)?;
                compare(&format!("sums of window {window}"), &got[head_dim..], &all, head_dim, 1e-7)?;
            }
        }
        Ok(())
    }
}

/// Attention over the window and the entries.
#[derive(Clone, Copy)]
struct Attended {
    heads: usize,
    head_dim: usize,
    ratio: Option<usize>,
    top_k: Option<usize>,
    tokens: usize,
    position: usize,
    f16: bool,
}

impl Attended {
    fn name(&self) -> String {
        format!(
            "compressed/attention/heads={}x{}/ratio={:?}/top={:?}/tokens={}/position={}/{}",
            self.heads,
            self.head_dim,
            self.ratio,
            self.top_k,
            self.tokens,
            self.position,
            if self.f16 { "f16" } else { "f32" }
        )
    }

    fn run(self, setup: &Setup, shards: usize) -> Outcome {
        let Attended { heads, head_dim, ratio, top_k, tokens, position, f16 } = self;
        let random = &mut Random::new((heads * head_dim + tokens + position) as u64);
        let (window, window_rows, rope_dim) = (37, 90, head_dim / 4);
        let (end, pairs) = (position + tokens, rope_dim / 2);
        let entries = ratio.map_or(0, |ratio| end / ratio);
        let q = random.floats(tokens * heads * head_dim);
        let table = turns(random, end * pairs);
        // Rows of the ring, entries, and beyond them NaN; with many of those decode has splits without a key.
        let mut held = kept(&random.floats((window_rows + entries) * head_dim), f16);
        let spare = if position % 3 == 0 { 3000 } else { 4 };
        held.resize(held.len() + spare * head_dim, f32::NAN);
        let mut rig = Rig::new(setup, tokens, State::at(position), &[]);
        let c = attention(&rig, random, [heads, head_dim, rope_dim], window, ratio);
        let sinks: Vec<f32> = rig.gpu().blocking_read(&c.sinks).unwrap();
        let cache = CompressedLayer {
            kv: KvLayer {
                k: cut(rig.gpu(), &held, head_dim, f16, shards, KvUse::Compressed).rows,
                v: None,
                index: None,
                format: format_of(f16),
                ring: None,
            },
            window_rows,
            sums: None,
            index_sums: None,
        };
        let seen = |t: usize| ratio.map_or(0, |ratio| (position + t + 1) / ratio);
        let lists: Option<Vec<Vec<u32>>> =
            top_k.map(|top_k| (0..tokens).map(|t| twins::index_select(&random.floats(seen(t)), top_k)).collect());
        let selection = lists.as_ref().zip(top_k).map(|(lists, top_k)| {
            let padded = lists.iter().flat_map(|l| l.iter().copied().chain(std::iter::repeat(POISON)).take(top_k));
            Selection { positions: rig.gpu().upload("selected", &padded.collect::<Vec<u32>>()).unwrap(), top_k }
        });
        rig.poison("attended", q.len());
        let (qs, rope) = (tensor(rig.gpu(), &q, heads * head_dim), rig.gpu().upload("rope", &table).unwrap());
        rig.run(|step| step.compressed_attention(&qs, &c, &rope, &cache, selection.as_ref()).map(drop))?;

        let row = |row: usize| &held[row * head_dim..][..head_dim];
        let want: Vec<f32> = q
            .chunks_exact(head_dim)
            .enumerate()
            .flat_map(|(i, q)| {
                let (t, h) = (i / heads, i % heads);
                let own = position + t;
                let listed: Vec<usize> = match &lists {
                    Some(lists) => lists[t].iter().map(|e| *e as usize).collect(),
                    None => (0..seen(t)).collect(),
                };
                let rows: Vec<&[f32]> = listed
                    .into_iter()
                    .map(|e| row(window_rows + e))
                    .chain(((own + 1).saturating_sub(window)..=own).map(|p| row(p % window_rows)))
                    .collect();
                twins::compressed_attention(q, &rows, c.scale, sinks[h], &table[own * pairs..][..pairs])
            })
            .collect();
        compare("out", &rig.floats("attended", want.len())?, &want, head_dim, 1e-7)
    }
}
