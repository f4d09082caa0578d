//! Head norms, rotary positions, and the cache write.

use crate::cache::{self, Cut};
use crate::rig::*;
use halogen::ops::{Heads, KvFormat, KvLayer, KvUse, RopePairs, Temperature, twins};
use halogen::presets::Heads as Sizes;

pub fn cases(cases: &mut Vec<Case>) {
    use KvFormat::{F16, F32, Q8_0};
    use RopePairs::{Adjacent, HalfSplit};
    for (head_dim, heads, kv_heads, tokens, position) in [
        (16usize, 1, 1, 1, 0),
        (16, 4, 2, 3, 5),
        (32, 7, 1, 2, 100),
        (64, 14, 2, 7, 33),
        (80, 8, 8, 33, 1),
        (128, 32, 4, 1, 1000),
        (128, 16, 2, 129, 7),
        (256, 16, 1, 2, 63),
        (512, 8, 1, 2, 9),
        (16, 256, 32, 3, 5),
        (64, 4, 0, 2, 3),
    ] {
        for (pairs, rope_dim) in [(Adjacent, head_dim), (HalfSplit, head_dim), (HalfSplit, head_dim / 2), (Adjacent, 0)]
        {
            for (qk_norm, format) in [(true, F16), (false, F32), (true, F32), (false, F16), (true, Q8_0), (false, Q8_0)]
            {
                let f16 = format == F16;
                if !head_dim.is_multiple_of(format.block()) {
                    continue;
                }
                let g = Geometry {
                    head_dim,
                    heads,
                    kv_heads,
                    tokens,
                    position,
                    pairs,
                    rope_dim,
                    qk_norm,
                    format,
                    temperature: None,
                    ring: None,
                };
                // Half of the product.
                if qk_norm == f16 || format == Q8_0 || tokens == 1 || tokens == 3 {
                    g.add(cases);
                }
                if pairs == HalfSplit && rope_dim == head_dim && qk_norm != f16 {
                    // Rows that come round within the step, or stand at any place.
                    let g = Geometry { ring: Some(tokens + position % 3 + 1), ..g };
                    g.add(cases);
                }
                if pairs == Adjacent && f16 && !qk_norm {
                    // Before the first span's end, across one, and far beyond.
                    let g =
                        Geometry { temperature: Some(Temperature { scale: 0.1, span: 34, offset: tokens % 2 }), ..g };
                    g.add(cases);
                }
            }
        }
    }
}

/// Heads of a published model, of which the first `rope_dim` lanes turn.
pub fn of_model(cases: &mut Vec<Case>, sizes: &Sizes, kv_heads: usize, rope_dim: usize) {
    let (Sizes { heads, head_dim, .. }, pairs) = (*sizes, RopePairs::HalfSplit);
    for (tokens, position) in [(1, 700), (9, 200)] {
        let (qk_norm, format, temperature, ring) = (true, KvFormat::F16, None, None);
        let g = Geometry {
            head_dim,
            heads,
            kv_heads,
            tokens,
            position,
            pairs,
            rope_dim,
            qk_norm,
            format,
            temperature,
            ring,
        };
        g.add(cases);
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
    format: KvFormat,
    temperature: Option<Temperature>,
    /// Rows of the cache, if positions share them.
    ring: Option<usize>,
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
            cache::name(self.format),
        )
    }

    fn add(self, cases: &mut Vec<Case>) {
        for &shards in cache::shards(self.tokens % 2 == 1 && self.head_dim < 80) {
            let name = self.name() + &cache::in_shards(shards);
            cases.push(Case::new(name, move |setup| self.run(setup, shards)));
        }
    }

    fn run(self, setup: &Setup, shards: usize) -> Outcome {
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
        let rows = self.ring.unwrap_or(positions);
        let empty = |format| {
            let held = cache::Rows { rows, heads: kv_heads, dim: head_dim, format };
            let mut words = held.words(&[], |p| p);
            // Behind a ring, which is known to be no longer.
            words.extend([cache::UNWRITTEN; 64].iter().take(if self.ring.is_some() { 64 } else { 0 }));
            let cut = || Cut::new(gpu, words.clone(), &held, shards, KvUse::KeysAndValues);
            let [k, v] = [cut(), cut()];
            let kv = KvLayer { k: k.rows.clone(), v: Some(v.rows.clone()), index: None, format, ring: self.ring };
            (kv, held, [k, v])
        };
        let (kv, held, [k_on_device, v_on_device]) = empty(self.format);
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
        let written = |what: &str, cut: &Cut, held: &cache::Rows| -> Result<Vec<f32>, String> {
            let mut words = cut.words(gpu);
            let tokens = position..position + tokens;
            let found = tokens.flat_map(|p| held.take(&mut words, p % rows)).collect();
            match words.iter().all(|w| *w == cache::UNWRITTEN) {
                true => Ok(found),
                false => Err(format!("{what}: other positions were written")),
            }
        };
        // The same in f32, of which q8_0 must be the rounding; a scale near the middle of two f16 may round either way.
        let (plain, plain_held, [plain_k, plain_v]) = empty(KvFormat::F32);
        if self.format == KvFormat::Q8_0 {
            rig.run(|step| step.heads(&xs, &h, &plain).map(drop))?;
        }
        let both = [("k", k_on_device, plain_k, k), ("v", v_on_device, plain_v, v)];
        for (what, on_device, plain, want) in both {
            let got = written(what, &on_device, &held)?;
            match self.format {
                KvFormat::F32 => compare(what, &got, &want, head_dim, 1e-7)?,
                // A value near the middle of two f16 may round either way: (2^-11)^2 of its power at most.
                KvFormat::F16 => compare(what, &got, &twins::round_f16(&want), head_dim, 2e-7)?,
                KvFormat::Q8_0 => {
                    let plain = written(what, &plain, &plain_held)?;
                    compare(what, &plain, &want, head_dim, 1e-7)?;
                    compare(what, &got, &twins::kept(&plain, self.format), head_dim, 3e-7)?;
                }
            }
        }
        Ok(())
    }
}
