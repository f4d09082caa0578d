//! The lightning indexer: its keys and queries, its scores, and what it selects.

use crate::cache::{self, Cut};
use crate::rig::*;
use halogen::gpu::Gpu;
use halogen::ops::{Indexer, KvFormat, KvLayer, KvUse, RopePairs, twins};

#[derive(Clone, Copy)]
struct Geometry {
    heads: usize,
    head_dim: usize,
    rope_dim: usize,
    top_k: usize,
    tokens: usize,
    position: usize,
    f16: bool,
    /// Keys and queries of few whole numbers: all sums are exact, and many scores tie.
    exact: bool,
}

pub fn cases(cases: &mut Vec<Case>) {
    // Keys through their norm, and queries; of few positions all are selected.
    for (heads, head_dim, rope_dim, tokens, position) in
        [(4, 64, 16, 1, 0), (32, 128, 64, 1, 300), (5, 12, 12, 7, 3), (3, 20, 8, 33, 11), (64, 128, 64, 9, 100)]
    {
        for f16 in [true, false] {
            add(cases, Geometry { heads, head_dim, rope_dim, top_k: 512, tokens, position, f16, exact: false });
        }
    }
    for (heads, head_dim, top_k, tokens, position) in [
        (4, 16, 16, 40, 0),
        (1, 4, 1, 5, 9),
        (32, 128, 2048, 1, 4096),
        (4, 16, 2048, 3, 2046),
        (4, 16, 2048, 7, 4090),
        (4, 16, 2048, 1, 131_071),
        (4, 16, 2048, 2, 131_070),
        // More tokens than are scored at once.
        (1, 4, 2048, 129, 130_943),
    ] {
        for f16 in [true, false] {
            add(cases, Geometry { heads, head_dim, rope_dim: 4, top_k, tokens, position, f16, exact: true });
        }
    }
}

/// An indexer of a published model: so many heads of so many lanes, of which some turn, that keep so many positions.
pub fn of_model(cases: &mut Vec<Case>, [heads, head_dim, rope_dim, top_k]: [usize; 4]) {
    for (tokens, position) in [(1, top_k + 50), (9, 100)] {
        add(cases, Geometry { heads, head_dim, rope_dim, top_k, tokens, position, f16: true, exact: true });
    }
}

fn add(cases: &mut Vec<Case>, g: Geometry) {
    let name = format!(
        "index/{}/heads={}x{}/turn={}/top={}/tokens={}/position={}/{}",
        if g.exact { "ties" } else { "rows" },
        g.heads,
        g.head_dim,
        g.rope_dim,
        g.top_k,
        g.tokens,
        g.position,
        if g.f16 { "f16" } else { "f32" },
    );
    for &shards in cache::shards(g.heads < 5) {
        let name = name.clone() + &cache::in_shards(shards);
        cases.push(Case::new(name, move |setup| g.run(setup, shards)));
    }
}

impl Geometry {
    /// The cache: `before`, and rows that are not written yet.
    fn cache(&self, gpu: &Gpu, before: &[f32], shards: usize) -> Cut {
        let rows =
            cache::Rows { rows: self.position + self.tokens + 3, heads: 1, dim: self.head_dim, format: self.format() };
        Cut::new(gpu, rows.words(before, |p| p), &rows, shards, KvUse::Index)
    }

    fn format(&self) -> KvFormat {
        if self.f16 { KvFormat::F16 } else { KvFormat::F32 }
    }

    fn run(self, setup: &Setup, shards: usize) -> Outcome {
        let Geometry { heads, head_dim, rope_dim, top_k, tokens, position, f16, exact } = self;
        let random = &mut Random::new((heads * head_dim + tokens + position) as u64);
        let pairs = if heads == 4 { RopePairs::HalfSplit } else { RopePairs::Adjacent };
        let mut values = |count: usize, whole: &[f32]| -> Vec<f32> {
            (0..count).map(|_| if exact { whole[random.below(whole.len())] } else { random.float() }).collect()
        };
        let columns = head_dim + heads + 10;
        let at = [heads + 4, 2];
        let mut a = values(tokens * columns, &[0.5, 1.0, -0.25]);
        let q = values(tokens * heads * head_dim, &[-1.0, 0.0, 1.0, 2.0]);
        let before = values(position * head_dim, &[-1.0, 0.0, 1.0]);
        let turns: Vec<[f32; 2]> = match exact {
            true => (0..(position + tokens) * rope_dim / 2).map(|i| [[1.0, 0.0], [0.0, 1.0]][i % 2]).collect(),
            false => values((position + tokens) * rope_dim / 2, &[]).iter().map(|x| [x.cos(), x.sin()]).collect(),
        };
        // Exact keys are those of the norm's bias alone.
        let weight = if exact { vec![0.0; head_dim] } else { values(head_dim, &[]) };
        let bias = values(head_dim, &[-1.0, 0.0, 1.0]);
        if exact {
            // No two lanes alike, so that the norm itself is finite.
            a.iter_mut().enumerate().for_each(|(i, x)| *x += if i % columns >= at[0] { i as f32 } else { 0.0 });
        }

        let mut rig = Rig::new(setup, tokens, State::at(position), &[]);
        let gpu = rig.gpu();
        let keys = self.cache(gpu, &before, shards);
        rig.poison("selected", tokens * top_k);
        let norm = [&weight, &bias].map(|values| gpu.upload("norm", values).unwrap());
        let indexer = Indexer { heads, head_dim, rope_dim, pairs, top_k, norm, eps: 1e-6 };
        let (qs, rows) = (tensor(gpu, &q, heads * head_dim), tensor(gpu, &a, columns));
        let rope = gpu.upload("rope", &turns).unwrap();
        let kv = KvLayer {
            k: keys.rows.clone(),
            v: None,
            index: Some(keys.rows.clone()),
            format: self.format(),
            ring: None,
        };
        rig.run(|step| step.index(&qs, &rows, at, &indexer, &rope, &kv).map(drop))?;

        let turns_of = |t: usize| &turns[(position + t) * rope_dim / 2..][..rope_dim / 2];
        let want: Vec<f32> = q
            .chunks_exact(head_dim)
            .enumerate()
            .flat_map(|(i, q)| twins::head(q, None, turns_of(i / heads), pairs))
            .collect();
        let turned: Vec<f32> = bytemuck::cast_vec(guarded(gpu, &qs.view, q.len())?);
        compare("q", &turned, &want, head_dim, 1e-7)?;
        let new: Vec<f32> = (0..tokens)
            .flat_map(|t| {
                let key = &a[t * columns + at[0]..][..head_dim];
                twins::index_key(key, [&weight, &bias], indexer.eps, turns_of(t), pairs)
            })
            .collect();
        let words = keys.words(gpu);
        let held: Vec<f32> = match f16 {
            true => bytemuck::cast_slice::<u32, half::f16>(&words).iter().map(|x| x.to_f32()).collect(),
            false => words.iter().map(|word| f32::from_bits(*word)).collect(),
        };
        let (first, end) = (position * head_dim, (position + tokens) * head_dim);
        let old = if f16 { twins::round_f16(&before) } else { before };
        if held[..first] != old || held[end..][..3 * head_dim].iter().any(|x| !x.is_nan()) {
            return Err("keys of other positions were written".into());
        }
        let (new, bound) = if f16 { (twins::round_f16(&new), 2e-7) } else { (new, 1e-7) };
        compare("key", &held[first..end], &new, head_dim, bound)?;
        let selected = rig.words("selected", tokens * top_k)?;
        for (t, got) in selected.chunks_exact(top_k).enumerate() {
            let weights = &a[t * columns + at[1]..][..heads];
            let q = &turned[t * heads * head_dim..][..heads * head_dim];
            let scores = twins::index_scores(q, weights, &held[..(position + t + 1) * head_dim]);
            let want = twins::index_select(&scores, top_k);
            if let Some(i) = (0..want.len()).find(|i| got[*i] != want[*i]) {
                return Err(format!("token {t}: selected {} in place {i} instead of {}", got[i], want[i]));
            }
            if got[want.len()..].iter().any(|word| *word != POISON) {
                return Err(format!("token {t}: more than {} were selected", want.len()));
            }
        }
        Ok(())
    }
}
