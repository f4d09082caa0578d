//! Mixtures of experts: one token by mat-vecs, many by grouping and tiled matmuls.

use crate::rig::*;
use halogen::formats::Format;
use halogen::ops::{Activation, Arithmetic, ExpertBias, ExpertGateUp, ExpertMlp, Product, Routing, Tuning, twins};

/// Which experts tokens choose.
#[derive(Clone, Copy, Debug)]
enum Choice {
    /// Any.
    Spread,
    /// All tokens the same ones: the last.
    Same,
    /// One expert is everybody's first, the others follow by token.
    Crowd,
}
use Choice::*;

#[derive(Clone, Copy)]
struct Mixture {
    experts: usize,
    ranks: usize,
    hidden: usize,
    ff: usize,
    tokens: usize,
    joined: bool,
    formats: [Format; 3],
    shards: usize,
    choice: Choice,
    /// gpt-oss's: biases and the clamped activation.
    clamped: bool,
    way: Way,
    /// Of Step-3.5's activation.
    limit: Option<f32>,
    gelu: bool,
}

/// What becomes of the mixture's result.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Add,
    /// With the weights on the inputs.
    Weighted,
    Store,
}
use Way::*;

const SMALL: Mixture = Mixture {
    experts: 8,
    ranks: 2,
    hidden: 64,
    ff: 32,
    tokens: 1,
    joined: true,
    formats: [Format::Q8_0; 3],
    shards: 1,
    choice: Spread,
    clamped: false,
    way: Add,
    limit: None,
    gelu: false,
};

pub fn cases(cases: &mut Vec<Case>) {
    use Format::*;
    let small = SMALL;
    for tokens in [1, 2, 7, 33, 129] {
        for joined in [true, false] {
            for (choice, shards) in [(Spread, 1), (Same, 1), (Crowd, 2), (Spread, 2)] {
                add(cases, Mixture { tokens, joined, choice, shards, ..small });
                add(cases, Mixture { tokens, joined, choice, shards, clamped: true, ..small });
                add(cases, Mixture { tokens, joined, choice, shards, limit: Some(0.3), ..small });
                add(cases, Mixture { tokens, joined, choice, shards, way: Weighted, ..small });
                add(cases, Mixture { tokens, joined, choice, shards, way: Store, gelu: true, ..small });
            }
        }
        // Bound four and eight beside each other; and more than are bound.
        for shards in [3, 5, 9] {
            let m = Mixture { experts: 16, ranks: 4, tokens, shards, ..small };
            add(cases, m);
            add(cases, Mixture { clamped: true, joined: false, ..m });
            add(cases, Mixture { way: Weighted, formats: [IQ4NL; 3], ..m });
        }
        // Formats as files mix them.
        let mixed = Mixture { hidden: 256, ff: 256, tokens, ..small };
        add(cases, Mixture { formats: [Q4K, Q4K, Q6K], ..mixed });
        add(cases, Mixture { formats: [Q4K, Q5K, Q6K], joined: false, shards: 2, ..mixed });
        add(cases, Mixture { formats: [F16, F32, BF16], joined: false, hidden: 36, ff: 20, ..mixed });
        add(cases, Mixture { formats: [F32; 3], hidden: 100, ff: 12, experts: 3, ranks: 3, ..mixed });
    }
    for &format in Format::ALL {
        for tokens in [1, 5] {
            add(cases, Mixture { formats: [format; 3], hidden: 256, ff: 256, experts: 4, tokens, ..small });
        }
    }
    // Rows so long that more invocations share each.
    for (hidden, ff) in [(2048, 512), (4096, 1024)] {
        for joined in [true, false] {
            add(cases, Mixture { formats: [Q4K; 3], hidden, ff, joined, shards: 2, ..small });
        }
    }
    for choice in [Spread, Same, Crowd] {
        add(cases, Mixture { experts: 16, ranks: 4, tokens: 512, choice, ..small });
    }
    for (experts, ranks, tokens) in
        [(2, 1, 1), (2, 1, 3), (60, 4, 7), (128, 8, 1), (128, 8, 33), (512, 10, 5), (64, 32, 1), (1024, 32, 9)]
    {
        add(cases, Mixture { experts, ranks, tokens, ff: 64, ..small });
    }
    for (experts, ranks, tokens) in [(2, 1, 2), (8, 2, 7), (128, 8, 129), (512, 10, 33), (1, 1, 3), (512, 10, 512)] {
        for choice in [Spread, Same, Crowd] {
            group(cases, experts, ranks, tokens, choice);
        }
    }
}

/// Two experts of a published model's sizes.
pub fn of_model(cases: &mut Vec<Case>, hidden: usize, ff: usize) {
    let format = if (hidden | ff).is_multiple_of(256) { Format::Q4K } else { Format::MXFP4 };
    for tokens in [1, 9] {
        let m = Mixture { experts: 2, ranks: 1, hidden, ff, formats: [format; 3], tokens, ..SMALL };
        cases.push(Case::new(m.name(), move |setup| m.run(setup)));
    }
}

impl Choice {
    /// [tokens, ranks], distinct within a token.
    fn route(self, random: &mut Random, tokens: usize, experts: usize, ranks: usize) -> Vec<u32> {
        let mut routed = Vec::new();
        for t in 0..tokens {
            let mut left: Vec<u32> = (0..experts as u32).collect();
            let pick = |random: &mut Random, left: &mut Vec<u32>, r: usize| match self {
                Spread => left.remove(random.below(left.len())),
                Same => left.pop().expect("ranks <= experts"),
                Crowd => left.remove(if r == 0 { 0 } else { t % left.len() }),
            };
            routed.extend((0..ranks).map(|r| pick(random, &mut left, r)));
        }
        routed
    }
}

fn routing(rig: &Rig, routed: &[u32], gates: &[f32], experts: usize, ranks: usize) -> Routing {
    let gpu = rig.gpu();
    Routing {
        routed: gpu.upload("routed", routed).unwrap(),
        gates: gpu.upload("gates", gates).unwrap(),
        experts,
        ranks,
    }
}

fn add(cases: &mut Vec<Case>, m: Mixture) {
    let case = Case::new(m.name(), move |setup| m.run(setup));
    let product = if m.tokens > 1 { Product::Grouped } else { Product::Matvec };
    cases.push(m.formats.iter().fold(case, |case, format| case.of_product(product, *format)));
}

impl Mixture {
    fn name(&self) -> String {
        let (m, formats) = (self, self.formats.map(|f| f.name()).join("+"));
        let name = format!(
            "experts/{formats}/experts={}/ranks={}/hidden={}/ff={}/tokens={}/{}/{:?}{}{}{}{}",
            m.experts,
            m.ranks,
            m.hidden,
            m.ff,
            m.tokens,
            if m.joined { "joined" } else { "split" },
            m.choice,
            if m.shards > 1 { format!("/shards={}", m.shards) } else { String::new() },
            if m.clamped { "/clamped" } else { "" },
            m.limit.map_or(String::new(), |limit| format!("/limit={limit}")),
            if m.way == Add { String::new() } else { format!("/{:?}", m.way) },
        );
        name.to_lowercase()
    }

    fn run(self, setup: &Setup) -> Outcome {
        let Mixture { experts, ranks, hidden, ff, tokens, shards, .. } = self;
        let random = &mut Random::new((experts * hidden + ff + tokens) as u64);
        let [gate_format, up_format, down_format] = self.formats;
        let (gate_up, gate, up) = if self.joined {
            let both = Weights::random(random, gate_format, experts * 2 * ff, hidden);
            let split = |half: usize| -> Vec<f32> {
                both.values
                    .chunks(2 * ff * hidden)
                    .flat_map(|e| e[half * ff * hidden..][..ff * hidden].to_vec())
                    .collect()
            };
            (ExpertGateUp::Joined(both.stack(&setup.gpu, experts, shards)), split(0), split(1))
        } else {
            let gate = Weights::random(random, gate_format, experts * ff, hidden);
            let up = Weights::random(random, up_format, experts * ff, hidden);
            let split = ExpertGateUp::Split {
                gate: gate.stack(&setup.gpu, experts, shards),
                up: up.stack(&setup.gpu, experts, 1),
            };
            (split, gate.values, up.values)
        };
        let down = Weights::random(random, down_format, experts * hidden, ff);
        let down_stack = down.stack(&setup.gpu, experts, shards);
        let routed = self.choice.route(random, tokens, experts, ranks);
        let gates: Vec<f32> = random.floats(tokens * ranks).iter().map(|g| 0.05 + g.abs()).collect();
        let x = random.floats(tokens * hidden);

        let mut rig = Rig::new(setup, tokens, State::at(0), &[]);
        let gpu = rig.gpu();
        let routing = routing(&rig, &routed, &gates, experts, ranks);
        let (norm, weight) = norm(gpu, random, hidden);
        rig.poison("expert h", tokens * ranks * ff);
        rig.poison("normed", tokens * hidden);
        let unlimited = if self.gelu { Activation::GeluTanh } else { Activation::Silu };
        let plain = self.limit.map_or(unlimited, Activation::SiluLimited);
        let activation = if self.clamped { Activation::Clamped } else { plain };
        let biases = self.clamped.then(|| [experts * 2 * ff, experts * hidden].map(|len| random.floats(len)));
        let bias = biases.as_ref().map(|[gate_up, down]| ExpertBias {
            gate_up: gpu.upload("bias", gate_up).unwrap(),
            down: gpu.upload("bias", down).unwrap(),
        });
        let mlp = ExpertMlp { gate_up, down: down_stack, bias, activation };
        // Beyond eight shards one token goes the way of many.
        let many = tokens > 1 || shards > 8;
        if many {
            rig.poison("expert rows", tokens * ranks * hidden);
            rig.poison("expert order", tokens * ranks);
        }
        let y = tensor(gpu, &x, hidden);
        if self.way == Store {
            rig.poison("mixed", tokens * hidden);
        }
        rig.run(|step| {
            step.rms_norm(&y, &norm)?;
            match self.way {
                Add => step.norm_experts(&y, &norm, &routing, &mlp),
                Weighted => step.norm_weighted_experts(&y, &norm, &routing, &mlp),
                Store => step.project_experts("mixed", &y, &norm, &routing, &mlp).map(drop),
            }
        })?;
        rig.took(if many { Product::Grouped } else { Product::Matvec }, down_format)?;
        let h = rig.floats("expert h", tokens * ranks * ff)?;
        if many {
            rig.words("expert rows", tokens * ranks * hidden)?;
            rig.words("expert order", tokens * ranks)?;
        }
        let normed = twins::rms_norm(&x, &weight, norm.eps);
        let bias = biases.as_ref().map(|[gate_up, down]| (&gate_up[..], &down[..]));
        let e = twins::Experts { gate: &gate, up: &up, down: &down.values, bias, activation, hidden, ff };
        let zeros = vec![0.0; x.len()];
        let got = match self.way {
            Store => rig.floats("mixed", x.len())?,
            Add | Weighted => guarded(gpu, &y.view, x.len())?.into_iter().map(f32::from_bits).collect(),
        };
        let before = if self.way == Store { &zeros } else { &x };
        if !self.formats.iter().any(|f| setup.dot(*f)) {
            let want = match self.way {
                Weighted => twins::weighted_experts(before, &normed, &e, &routed, &gates),
                Add | Store => twins::experts(before, &normed, &e, &routed, &gates),
            };
            // In f16 the errors of gate and up meet in h and go on through down: up to four times those of one product.
            return match setup.force {
                Some(Arithmetic::F16 | Arithmetic::Matrix) => compare("y", &got, &want, want.len(), 8e-6),
                _ => setup.compare("y", &got, &want, hidden, down_format),
            };
        }
        // Each half by itself, on what the device rounded before it. Of many tokens h lies in the order of experts.
        let order = if many { rig.words("expert order", tokens * ranks)? } else { (0..ranks as u32).collect() };
        let by_token = |h: Vec<f32>| -> Vec<f32> {
            let mut rows: Vec<(u32, &[f32])> = order.iter().copied().zip(h.chunks(ff)).collect();
            rows.sort_by_key(|(row, _)| *row);
            rows.iter().flat_map(|(_, h)| h.to_vec()).collect()
        };
        let read = rig.read_by(gate_format, "quantised", &rig.floats("normed", tokens * hidden)?, &normed)?;
        let (read, gates) = match self.way {
            Weighted => {
                let of_rank = |(r, gate): (usize, &f32)| -> Vec<f32> {
                    read[r / ranks * hidden..][..hidden].iter().map(|x| gate * x).collect()
                };
                (gates.iter().enumerate().flat_map(of_rank).collect(), vec![1.0; gates.len()])
            }
            Add | Store => (read, gates),
        };
        let want = twins::expert_inner(&read, &e, &routed);
        let read = by_token(rig.read_by(down_format, "quantised h", &h, &h)?);
        setup.compare("h", &by_token(h), &want, ff, gate_format)?;
        let want = twins::expert_outer(before, &read, &e, &routed, &gates);
        setup.compare("y", &got, &want, hidden, down_format)
    }
}

/// The grouping alone: its order and its tiles are exact.
fn group(cases: &mut Vec<Case>, experts: usize, ranks: usize, tokens: usize, choice: Choice) {
    let name = format!("expert_group/experts={experts}/ranks={ranks}/tokens={tokens}/{choice:?}").to_lowercase();
    cases.push(Case::new(name, move |setup| {
        let random = &mut Random::new((experts + ranks + tokens) as u64);
        let routed = choice.route(random, tokens, experts, ranks);
        let mut rig = Rig::new(setup, tokens, State::at(0), &[]);
        let gpu = rig.gpu();
        let routing = routing(&rig, &routed, &vec![1.0; routed.len()], experts, ranks);
        let (norm, _) = norm(gpu, random, 4);
        let weights = Weights::random(random, Format::F32, experts * 8, 4);
        let gate_up = ExpertGateUp::Joined(weights.stack(gpu, experts, 1));
        let down = Weights::random(random, Format::F32, experts * 4, 4).stack(gpu, experts, 1);
        let bn = Tuning::of(setup.class).matmul.bn as usize;
        let (order, tiles) = twins::expert_group(&routed, bn);
        // What the host sizes the grid by: each expert may end in a tile that is not full.
        let most = routed.len().div_ceil(bn) + experts.min(routed.len());
        rig.poison("expert order", routed.len());
        rig.poison("expert tiles", 4 * (routed.len().div_ceil(bn) + experts));
        let y = tensor(gpu, &random.floats(tokens * 4), 4);
        let mlp = ExpertMlp { gate_up, down, bias: None, activation: Activation::Silu };
        rig.run(|step| step.norm_experts(&y, &norm, &routing, &mlp))?;
        let got = rig.words("expert order", routed.len())?;
        if got != order {
            return Err(format!("order {got:?} instead of {order:?}"));
        }
        let got = rig.words("expert tiles", 4 * most)?;
        let mut want: Vec<u32> = tiles.concat();
        want.resize(4 * most, 0);
        if got == want { Ok(()) } else { Err(format!("tiles {got:?} instead of {want:?}")) }
    }));
}
