//! Head norms, rotary positions, and the cache write.

use crate::rig::*;
use halogen::gpu::{Gpu, View};
use halogen::ops::{Heads, KvLayer, RopePairs, Temperature, twins};
use halogen::presets::Heads as Sizes;

pub fn cases(cases: &mut Vec<Case>) {
    use RopePairs::{Adjacent, HalfSplit};
    for (head_dim, heads, kv_heads, tokens, position) in [
        (16, 1, 1, 1, 0),
        (16, 4, 2, 3, 5),
        (32, 7, 1, 2, 100),
        (64, 14, 2, 7, 33),
        (80, 8, 8, 33, 1),
        (128, 32, 4, 1, 1000),
        (128, 16, 2, 129, 7),
        (256, 16, 1, 2, 63),
        (512, 8, 1, 2, 9),
        (64, 4, 0, 2, 3),
    ] {
        for (pairs, rope_dim) in [(Adjacent, head_dim), (HalfSplit, head_dim), (HalfSplit, head_dim / 2), (Adjacent, 0)]
        {
            for (qk_norm, f16) in [(true, true), (false, false), (true, false), (false, true)] {
                let g = Geometry {
                    head_dim,
                    heads,
                    kv_heads,
                    tokens,
                    position,
                    pairs,
                    rope_dim,
                    qk_norm,
                    f16,
                    temperature: None,
                    ring: None,
                };
                // Half of the product.
                if qk_norm == f16 || tokens == 1 || tokens == 3 {
                    cases.push(Case::new(g.name(), move |setup| g.run(setup)));
                }
                if pairs == HalfSplit && rope_dim == head_dim && qk_norm != f16 {
                    // Rows that come round within the step, or stand at any place.
                    let g = Geometry { ring: Some(tokens + position % 3 + 1), ..g };
                    cases.push(Case::new(g.name(), move |setup| g.run(setup)));
                }
                if pairs == Adjacent && f16 && !qk_norm {
                    // Before the first span's end, across one, and far beyond.
                    let g =
                        Geometry { temperature: Some(Temperature { scale: 0.1, span: 34, offset: tokens % 2 }), ..g };
                    cases.push(Case::new(g.name(), move |setup| g.run(setup)));
                }
            }
        }
    }
}

/// Heads of a published model, of which the first `rope_dim` lanes turn.
pub fn of_model(cases: &mut Vec<Case>, sizes: &Sizes, kv_heads: usize, rope_dim: usize) {
    let (Sizes { heads, head_dim, .. }, pairs) = (*sizes, RopePairs::HalfSplit);
    for (tokens, position) in [(1, 700), (9, 200)] {
        let (qk_norm, f16, temperature, ring) = (true, true, None, None);
        let g =
            Geometry { head_dim, heads, kv_heads, tokens, position, pairs, rope_dim, qk_norm, f16, temperature, ring };
        cases.push(Case::new(g.name(), move |setup| g.run(setup)));
    }
}

#[derive(Clone, Copy)]
struct Geometry {
    head_dim: usize,
    heads: usize,
    kv_heads: usize,
    tokens: usize,
    position: usize,
    pairs: RopePairs,
    rope_dim: usize,
    qk_norm: bool,
    f16: bool,
    temperature: Option<Temperature>,
    /// Rows of the cache, if positions share them.
    ring: Option<usize>,
}

/// A cache of `positions`, filled with `value`.
pub fn cache(gpu: &Gpu, words: usize, value: u32) -> View {
    gpu.upload("cache", &vec![value; words]).unwrap()
}

impl Geometry {
    fn name(&self) -> String {
        format!(
            "heads/dim={}/heads={}x{}/tokens={}/position={}/{:?}={}{}{}{}/{}",
            self.head_dim,
            self.heads,
            self.kv_heads,
            self.tokens,
            self.position,
            self.pairs,
            self.rope_dim,
            if self.qk_norm { "/norm" } else { "" },
            if self.temperature.is_some() { "/temperature" } else { "" },
            self.ring.map_or(String::new(), |rows| format!("/ring={rows}")),
            if self.f16 { "f16" } else { "f32" },
        )
    }

    fn run(self, setup: &Setup) -> Outcome {
        let Geometry { head_dim, heads, kv_heads, tokens, position, pairs, rope_dim, .. } = self;
        let random = &mut Random::new((head_dim * heads + tokens) as u64);
        // v, then a gap, then q, then k: nothing may depend on the usual order.
        let at = [kv_heads * head_dim + 8, (kv_heads + heads) * head_dim + 8, 0];
        let columns = (2 * kv_heads + heads) * head_dim + 8;
        let qkv = random.floats(tokens * columns);
        let positions = position + tokens + 2;
        let half = rope_dim / 2;
        let rope: Vec<[f32; 2]> = (0..positions * half.max(1))
            .map(|_| {
                let angle = 3.0 * random.float();
                [angle.cos(), angle.sin()]
            })
            .collect();
        let mut rig = Rig::new(setup, tokens, State::at(position), &[]);
        let gpu = rig.gpu();
        let (q_norm, q_weight) = norm(gpu, random, head_dim);
        let (k_norm, k_weight) = norm(gpu, random, head_dim);
        rig.poison("q", tokens * heads * head_dim);
        let row_words = kv_heads * head_dim / if self.f16 { 2 } else { 1 };
        let rows = self.ring.unwrap_or(positions);
        let kv = KvLayer {
            k: cache(gpu, (rows + 2) * row_words, POISON),
            v: Some(cache(gpu, (rows + 2) * row_words, POISON)),
            index: None,
            f16: self.f16,
            ring: self.ring,
        };
        let rope_view = gpu.upload("rope", &rope).unwrap();
        let h = Heads {
            heads,
            kv_heads,
            head_dim,
            at,
            qk_norm: self.qk_norm.then_some((&q_norm, &k_norm)),
            v_norm: self.qk_norm && self.kv_heads == 1,
            pairs,
            rope: &rope_view,
            rope_dim,
            temperature: self.temperature,
        };
        let xs = tensor(gpu, &qkv, columns);
        rig.run(|step| step.heads(&xs, &h, &kv).map(drop))?;

        let eps = q_norm.eps;
        let norms = |weight| if self.qk_norm { Some((weight, eps)) } else { None };
        let (mut q, mut k, mut v) = (vec![], vec![], vec![]);
        for t in 0..tokens {
            let turns = &rope[(position + t) * half..][..half];
            let part = |first: usize, i: usize| &qkv[t * columns + first + i * head_dim..][..head_dim];
            for i in 0..heads {
                let warm = self.temperature.map_or(1.0, |w| twins::temperature(w, position + t));
                let head = twins::head(part(at[0], i), norms(&q_weight[..]), turns, pairs);
                q.extend(head.iter().map(|x| (f64::from(*x) * warm) as f32));
            }
            for i in 0..kv_heads {
                k.extend(twins::head(part(at[1], i), norms(&k_weight[..]), turns, pairs));
                match self.qk_norm && self.kv_heads == 1 {
                    true => v.extend(twins::rms_norm(part(at[2], i), &vec![1.0; head_dim], eps)),
                    false => v.extend_from_slice(part(at[2], i)),
                }
            }
        }
        compare("q", &rig.floats("q", q.len())?, &q, head_dim, 1e-7)?;
        for (what, view, want) in [("k", &kv.k, k), ("v", kv.v.as_ref().unwrap(), v)] {
            let mut words = gpu.blocking_read::<u32>(view).unwrap();
            words.truncate((rows + 2) * row_words);
            let mut written = Vec::new();
            for p in position..position + tokens {
                let row = &mut words[p % rows * row_words..][..row_words];
                written.extend_from_slice(row);
                row.fill(POISON);
            }
            if words.iter().any(|w| *w != POISON) {
                return Err(format!("{what}: other positions were written"));
            }
            if self.f16 {
                let got: &[half::f16] = bytemuck::cast_slice(&written);
                let got: Vec<f32> = got.iter().map(|x| x.to_f32()).collect();
                // A value near the middle of two f16 may round either way: (2^-11)^2 of its power at most.
                compare(what, &got, &twins::round_f16(&want), head_dim, 2e-7)?;
            } else {
                compare(what, bytemuck::cast_slice(&written), &want, head_dim, 1e-7)?;
            }
        }
        Ok(())
    }
}
