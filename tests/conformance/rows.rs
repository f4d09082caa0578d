//! Kernels that work on rows: the embedding's, the norm's, the router's; and the grouping of rows by expert is in
//! experts.rs.

use crate::rig::*;
use halogen::formats::Format;
use halogen::ops::{Activation, ExpertRouter, HashRouter, Scoring, SigmoidRouter, twins};

pub fn cases(cases: &mut Vec<Case>) {
    for &format in Format::ALL {
        embed(cases, format, 300, 256, 7, 1);
    }
    for (format, rows, columns, tokens, shards) in [
        (Format::F32, 1, 4, 1, 1),
        (Format::F16, 9, 12, 5, 3),
        (Format::BF16, 50, 100, 33, 2),
        (Format::Q8_0, 1000, 1056, 129, 3),
        (Format::Q6K, 40, 768, 2, 3),
    ] {
        embed(cases, format, rows, columns, tokens, shards);
    }
    for columns in [4, 12, 64, 1028, 4096, 5000] {
        for rows in [1, 2, 7, 129] {
            rms_norm(cases, rows, columns);
        }
    }
    for (tokens, columns) in [(1, 16), (3, 256), (70, 20)] {
        for activation in
            [Activation::GeluTanh, Activation::Silu, Activation::SiluLimited(0.5), Activation::SiluCapped(0.5)]
        {
            glu(cases, tokens, columns, activation);
        }
        softcap(cases, tokens, 37 * columns);
    }
    for (tokens, experts, ranks) in [
        (1, 2, 1),
        (3, 2, 2),
        (1, 8, 2),
        (7, 60, 4),
        (1, 64, 8),
        (33, 127, 10),
        (129, 128, 8),
        (2, 256, 8),
        (5, 512, 10),
        (1, 1024, 10),
        (2, 10, 10),
    ] {
        router_scaled(cases, tokens, experts, ranks);
        for renormalise in [true, false] {
            for logits in [Logits::Spread, Logits::Ties, Logits::Extremes] {
                router(cases, tokens, experts, ranks, renormalise, logits);
            }
            router_beside(cases, tokens, experts, ranks, renormalise);
            let scoring = Scoring::Sigmoid;
            let plain = Sigmoid { experts, ranks, groups: (1, 1), shared: 0, biased: true, ties: false, scoring };
            router_sigmoid(cases, tokens, plain, renormalise);
            router_sigmoid(cases, tokens, Sigmoid { biased: false, ..plain }, renormalise);
            router_hashed(cases, tokens, experts, ranks, renormalise);
        }
    }
    for (tokens, experts, ranks, groups, shared) in [
        (1, 8, 2, (1, 1), 1),
        (7, 16, 4, (4, 2), 1),
        (33, 256, 8, (8, 4), 1),
        (2, 1024, 32, (32, 9), 2),
        (5, 12, 3, (6, 2), 0),
        (3, 1024, 32, (1, 1), 1),
        (9, 60, 6, (3, 1), 3),
    ] {
        for (ties, scoring) in [
            (false, Scoring::Sigmoid),
            (true, Scoring::Sigmoid),
            (false, Scoring::SqrtSoftplus),
            (true, Scoring::SqrtSoftplus),
        ] {
            let s = Sigmoid { experts, ranks, groups, shared, biased: true, ties, scoring };
            router_sigmoid(cases, tokens, s, tokens != 7);
        }
    }
}

/// The router of a published model: without `scoring` by softmax.
pub fn of_model(cases: &mut Vec<Case>, experts: usize, ranks: usize, groups: (usize, usize), scoring: Option<Scoring>) {
    for tokens in [1, 9] {
        match scoring {
            None => router(cases, tokens, experts, ranks, true, Logits::Spread),
            Some(scoring) => {
                let s = Sigmoid { experts, ranks, groups, shared: 0, biased: true, ties: false, scoring };
                router_sigmoid(cases, tokens, s, true);
            }
        }
    }
}

fn embed(cases: &mut Vec<Case>, format: Format, rows: usize, columns: usize, tokens: usize, shards: usize) {
    let name = format!("embed/{format}/rows={rows}/columns={columns}/tokens={tokens}/shards={shards}");
    cases.push(Case::new(name, move |setup| {
        let random = &mut Random::new((rows + columns) as u64);
        let weights = Weights::random(random, format, rows, columns);
        let position = 11;
        let history: Vec<u32> = (0..position + tokens).map(|_| random.below(rows) as u32).collect();
        let mut rig = Rig::new(setup, tokens, State::at(position), &history);
        rig.poison("x", tokens * columns);
        let table = weights.matrix(rig.gpu(), shards);
        rig.run(|step| step.embed(&table, 1.25).map(drop))?;
        let want = twins::embed(&weights.values, columns, &history[position..], 1.25);
        compare("x", &rig.floats("x", tokens * columns)?, &want, columns, 1e-7)
    }));
}

fn rms_norm(cases: &mut Vec<Case>, rows: usize, columns: usize) {
    cases.push(Case::new(format!("rms_norm/rows={rows}/columns={columns}"), move |setup| {
        let random = &mut Random::new((rows + columns) as u64);
        let mut x = random.floats(rows * columns);
        // A large row, a small one where eps rules, and zeros.
        x[..columns].iter_mut().for_each(|x| *x *= 1e4);
        x[columns..].iter_mut().take(columns).for_each(|x| *x *= 1e-3);
        if rows > 2 {
            x[2 * columns..3 * columns].fill(0.0);
        }
        let mut rig = Rig::new(setup, rows, State::at(0), &[]);
        rig.poison("normed", rows * columns);
        let (norm, weight) = norm(rig.gpu(), random, columns);
        let xs = tensor(rig.gpu(), &x, columns);
        rig.run(|step| step.rms_norm(&xs, &norm).map(drop))?;
        let want = twins::rms_norm(&x, &weight, norm.eps);
        compare("y", &rig.floats("normed", x.len())?, &want, columns, 1e-7)?;
        // The same, added to what was there, with a factor on the sum.
        let held = random.floats(rows * columns);
        let y = tensor(rig.gpu(), &held, columns);
        rig.run(|step| step.add_norm_scaled(&y, &xs, &norm, 0.75))?;
        let want: Vec<f32> = want.iter().zip(&held).map(|(x, y)| 0.75 * (x + y)).collect();
        let got = guarded(rig.gpu(), &y.view, held.len())?;
        compare("y", bytemuck::cast_slice(&got), &want, columns, 1e-7)
    }));
}

#[derive(Clone, Copy, Debug)]
pub enum Logits {
    Spread,
    /// Few values, each many times, zeros of both signs among them.
    Ties,
    /// The largest floats and zeros.
    Extremes,
}

impl Logits {
    pub fn draw(self, random: &mut Random, count: usize) -> Vec<f32> {
        let one = |random: &mut Random| match self {
            Logits::Spread => 3.0 * random.float(),
            Logits::Ties => [0.0, -0.0, 1.0, -2.5][random.below(4)],
            Logits::Extremes => [0.0, 3e38, -3e38, 1e-38][random.below(4)],
        };
        (0..count).map(|_| one(random)).collect()
    }
}

/// Weights with a factor an expert.
fn router_scaled(cases: &mut Vec<Case>, tokens: usize, experts: usize, ranks: usize) {
    cases.push(Case::new(format!("router/scaled/experts={experts}/ranks={ranks}/tokens={tokens}"), move |setup| {
        let random = &mut Random::new((tokens * experts + ranks) as u64);
        let x = Logits::Spread.draw(random, tokens * experts);
        let scales = random.floats(experts);
        let mut rig = Rig::new(setup, tokens, State::at(0), &[]);
        rig.poison("routed", tokens * ranks);
        rig.poison("gates", tokens * ranks);
        let xs = tensor(rig.gpu(), &x, experts);
        let router = ExpertRouter { ranks, scales: rig.gpu().upload("scales", &scales).unwrap() };
        rig.run(|step| step.route_scaled(&xs, &router).map(drop))?;
        let (routed, gates) = twins::router_scaled(&x, &scales, ranks);
        let got = rig.words("routed", tokens * ranks)?;
        if got != routed {
            return Err(format!("routed {got:?} instead of {routed:?}"));
        }
        let got = rig.floats("gates", tokens * ranks)?;
        got.iter().zip(&gates).enumerate().try_for_each(|(i, (got, want))| {
            let near = (got - want).abs() <= 2e-6 * want.abs() + 1e-7;
            if near { Ok(()) } else { Err(format!("gate {i}: {got} instead of {want}")) }
        })
    }));
}

/// Gates of inputs that lie in wider rows.
fn glu(cases: &mut Vec<Case>, tokens: usize, columns: usize, activation: Activation) {
    cases.push(Case::new(format!("glu/columns={columns}/tokens={tokens}/{activation:?}"), move |setup| {
        let random = &mut Random::new((tokens * columns) as u64);
        let (at, stride) = (5, columns + 9);
        let y: Vec<f32> = random.floats(tokens * columns).iter().map(|y| 4.0 * y).collect();
        let u = random.floats(tokens * stride);
        let mut rig = Rig::new(setup, tokens, State::at(0), &[]);
        let (ys, us) = (tensor(rig.gpu(), &y, columns), tensor(rig.gpu(), &u, stride));
        rig.run(|step| step.glu(&ys, &us, at, activation))?;
        let of = |i: usize| u[i / columns * stride + at + i % columns];
        let want: Vec<f32> =
            y.iter().enumerate().map(|(i, y)| twins::gated(activation, (*y).into(), of(i).into()) as f32).collect();
        let got = guarded(rig.gpu(), &ys.view, y.len())?;
        compare("y", bytemuck::cast_slice(&got), &want, columns, 1e-7)
    }));
}

/// Small logits and ones far beyond the cap.
fn softcap(cases: &mut Vec<Case>, rows: usize, columns: usize) {
    cases.push(Case::new(format!("softcap/rows={rows}/columns={columns}"), move |setup| {
        let random = &mut Random::new((rows + columns) as u64);
        let size = |i: usize| [1e-3, 1.0, 30.0, 3e3, 3e38][i % 5];
        let y: Vec<f32> = random.floats(rows * columns).iter().enumerate().map(|(i, y)| size(i) * y).collect();
        let mut rig = Rig::new(setup, rows, State::at(0), &[]);
        let ys = tensor(rig.gpu(), &y, columns);
        rig.run(|step| step.softcap(&ys, 30.0))?;
        let got = guarded(rig.gpu(), &ys.view, y.len())?;
        compare("y", bytemuck::cast_slice(&got), &twins::softcap(&y, 30.0), columns, 1e-7)
    }));
}

fn router(cases: &mut Vec<Case>, tokens: usize, experts: usize, ranks: usize, renormalise: bool, logits: Logits) {
    let kind = format!("{logits:?}").to_lowercase();
    let all = if renormalise { "renormalise" } else { "all" };
    let name = format!("router/experts={experts}/ranks={ranks}/tokens={tokens}/{all}/{kind}");
    cases.push(Case::new(name, move |setup| {
        let random = &mut Random::new((tokens * experts + ranks) as u64);
        let x = logits.draw(random, tokens * experts);
        let mut rig = Rig::new(setup, tokens, State::at(0), &[]);
        rig.poison("routed", tokens * ranks);
        rig.poison("gates", tokens * ranks);
        let xs = tensor(rig.gpu(), &x, experts);
        rig.run(|step| step.route_softmax(&xs, ranks, renormalise).map(drop))?;
        let (routed, gates) = twins::router(&x, experts, ranks, renormalise);
        let got = rig.words("routed", tokens * ranks)?;
        if got != routed {
            return Err(format!("routed {got:?} instead of {routed:?}"));
        }
        let got = rig.floats("gates", tokens * ranks)?;
        // Against the whole of a token's weights: where one rules, the variance of few is no measure.
        got.iter().zip(&gates).enumerate().try_for_each(|(i, (got, want))| {
            let near = (got - want).abs() <= 1e-6 * want.abs() + 1e-7;
            if near { Ok(()) } else { Err(format!("gate {i}: {got} instead of {want}")) }
        })
    }));
}

/// The softmax router beside a shared expert with a gate of its own, one of the stacks or not.
fn router_beside(cases: &mut Vec<Case>, tokens: usize, experts: usize, ranks: usize, joined: bool) {
    let name = format!("router/beside/experts={experts}/ranks={ranks}/tokens={tokens}/joined={joined}");
    cases.push(Case::new(name, move |setup| {
        let random = &mut Random::new((tokens * experts + ranks) as u64);
        let x: Vec<f32> = (0..tokens * (experts + 1)).map(|_| 5.0 * random.float()).collect();
        let mut rig = Rig::new(setup, tokens, State::at(0), &[]);
        let wide = ranks + usize::from(joined);
        rig.poison("routed", tokens * wide);
        rig.poison("gates", tokens * wide);
        let xs = tensor(rig.gpu(), &x, experts + 1);
        rig.run(|step| step.route_softmax_beside(&xs, ranks, true, joined).map(drop))?;
        let logits: Vec<f32> = x.chunks_exact(experts + 1).flat_map(|row| row[..experts].to_vec()).collect();
        let (routed, gates) = twins::router(&logits, experts, ranks, true);
        let (found, weights) = (rig.words("routed", tokens * wide)?, rig.floats("gates", tokens * wide)?);
        for t in 0..tokens {
            let (mut chosen, mut by) = (routed[t * ranks..][..ranks].to_vec(), gates[t * ranks..][..ranks].to_vec());
            if joined {
                chosen.push(experts as u32);
                by.extend(twins::gate(&[1.0], &[x[t * (experts + 1) + experts]], 1));
            }
            let got = &weights[t * wide..][..wide];
            if found[t * wide..][..wide] != chosen || got.iter().zip(&by).any(|(a, b)| (a - b).abs() > 1e-6) {
                return Err(format!("token {t}: {got:?} instead of {by:?}, of {chosen:?}"));
            }
        }
        Ok(())
    }));
}

/// A sigmoid router: experts, those of each token, groups, and shared experts.
#[derive(Clone, Copy)]
struct Sigmoid {
    experts: usize,
    ranks: usize,
    groups: (usize, usize),
    shared: usize,
    biased: bool,
    /// Scores that occur many times, also those of groups.
    ties: bool,
    scoring: Scoring,
}

fn router_sigmoid(cases: &mut Vec<Case>, tokens: usize, s: Sigmoid, renormalise: bool) {
    let Sigmoid { experts, ranks, groups, shared, biased, ties, scoring } = s;
    let all = if renormalise { "renormalise" } else { "all" };
    let name = format!(
        "router/{}/experts={experts}/ranks={ranks}/groups={}of{}/shared={shared}/tokens={tokens}/{all}{}{}",
        format!("{scoring:?}").to_lowercase(),
        groups.1,
        groups.0,
        if biased { "" } else { "/unbiased" },
        if ties { "/ties" } else { "" }
    );
    cases.push(Case::new(name, move |setup| {
        let random = &mut Random::new((tokens * experts + ranks) as u64);
        // Scores apart by more than rounding: sigmoids of -3 .. 3 on a grid that is shuffled, with a bias by expert; or
        // zeros alone, where no rounding parts what is equal; or logits up to 30, whose sigmoids are the same.
        let high = if biased { 3.0 } else { 30.0 };
        let x: Vec<f32> = (0..tokens)
            .flat_map(|_| {
                let mut grid: Vec<f32> = (0..experts).map(|e| (high + 3.0) * e as f32 / experts as f32 - 3.0).collect();
                (1..experts).for_each(|i| grid.swap(i, random.below(i + 1)));
                if ties { vec![0.0; experts] } else { grid }
            })
            .collect();
        let bias: Vec<f32> = match ties {
            true => (0..experts).map(|_| [0.0, 0.25, -0.25][random.below(3)]).collect(),
            false => (0..experts).map(|e| if e % 3 == 0 { 2.0 } else { -1.0 }).collect(),
        };
        let all = tokens * (ranks + shared);
        let mut rig = Rig::new(setup, tokens, State::at(0), &[]);
        rig.poison("routed", all);
        rig.poison("gates", all);
        let xs = tensor(rig.gpu(), &x, experts);
        let on_device = rig.gpu().upload("bias", &bias).unwrap();
        let router = SigmoidRouter {
            bias: biased.then_some(on_device),
            scoring,
            ranks,
            renormalise,
            scale: 2.5,
            groups,
            shared,
        };
        rig.run(|step| step.route_sigmoid(&xs, &router).map(drop))?;
        let twin = twins::Sigmoids {
            experts,
            bias: biased.then_some(&bias[..]),
            scoring,
            ranks,
            renormalise,
            scale: 2.5,
            groups,
            shared,
        };
        let (routed, gates) = twins::router_sigmoid(&x, twin);
        let got = rig.words("routed", all)?;
        if got != routed {
            return Err(format!("routed {got:?} instead of {routed:?}"));
        }
        let got = rig.floats("gates", all)?;
        got.iter().zip(&gates).enumerate().try_for_each(|(i, (got, want))| {
            let near = (got - want).abs() <= 2e-6 * want.abs();
            if near { Ok(()) } else { Err(format!("gate {i}: {got} instead of {want}")) }
        })
    }));
}

/// Experts by the token's id, beside a shared one.
fn router_hashed(cases: &mut Vec<Case>, tokens: usize, experts: usize, ranks: usize, renormalise: bool) {
    let all = if renormalise { "renormalise" } else { "all" };
    let name = format!("router/hashed/experts={experts}/ranks={ranks}/tokens={tokens}/{all}");
    cases.push(Case::new(name, move |setup| {
        let random = &mut Random::new((tokens * experts + ranks) as u64);
        // Logits of which e to their power is next to nothing, too.
        let x: Vec<f32> = random.floats(tokens * experts).iter().map(|x| 15.0 * x).collect();
        let (vocabulary, position) = (50, 3);
        let table: Vec<u32> = (0..vocabulary * ranks).map(|_| random.below(experts) as u32).collect();
        let ids: Vec<u32> = (0..position + tokens).map(|_| random.below(vocabulary) as u32).collect();
        let wide = ranks + 1;
        let mut rig = Rig::new(setup, tokens, State::at(position), &ids);
        rig.poison("routed", tokens * wide);
        rig.poison("gates", tokens * wide);
        let xs = tensor(rig.gpu(), &x, experts);
        let on_device = rig.gpu().upload("table", &table).unwrap();
        let router = HashRouter { table: on_device, ranks, renormalise, scale: 1.5, shared: 1 };
        rig.run(|step| step.route_hashed(&xs, &router).map(drop))?;
        let (routed, gates) = (rig.words("routed", tokens * wide)?, rig.floats("gates", tokens * wide)?);
        for (t, id) in ids[position..].iter().enumerate() {
            let (chosen, shared) = routed[t * wide..][..wide].split_at(ranks);
            if *chosen != table[*id as usize * ranks..][..ranks] || shared != [experts as u32] {
                return Err(format!("token {t}, id {id}: {chosen:?} and {shared:?}"));
            }
            let scores = chosen.iter().map(|e| twins::score(Scoring::SqrtSoftplus, x[t * experts + *e as usize]));
            let scores: Vec<f64> = scores.collect();
            let factor = 1.5 / if renormalise { scores.iter().sum::<f64>() } else { 1.0 };
            let want = scores.iter().map(|s| s * factor).chain([1.0]);
            // Of little more than nothing is left what e to the power of a large number loses.
            let bound = |want: f64| want * if want > 0.01 { 2e-6 } else { 2e-5 };
            let near = |(got, want): (&f32, f64)| (f64::from(*got) - want).abs() <= bound(want);
            if !gates[t * wide..][..wide].iter().zip(want).all(near) {
                return Err(format!("token {t}: gates {:?}", &gates[t * wide..][..wide]));
            }
        }
        Ok(())
    }));
}
