//! A token whose activations are no numbers spoils its own rows and no others: the rest keep their bits. A driver may take NaN
//! for something else (WGSL lets it), but not carry it to another row.

use crate::rig::*;
use halogen::formats::Format;
use halogen::ops::{Activation, Attention, ExpertGateUp, ExpertMlp, KvFormat, KvLayer, Routing, twins};

const COLUMNS: usize = 256;
const ROWS: usize = 70;

/// Runs an operator over activations [tokens, COLUMNS]; gives its output's rows.
type Run = fn(&mut Rig, &[f32], usize) -> Result<Vec<Vec<u32>>, String>;

const OPERATORS: &[(&str, Run)] = &[
    ("rms_norm", |rig, x, tokens| {
        rig.poison("normed", tokens * COLUMNS);
        let (norm, _) = norm(rig.gpu(), &mut Random::new(1), COLUMNS);
        let xs = tensor(rig.gpu(), x, COLUMNS);
        rig.run(|step| step.rms_norm(&xs, &norm).map(drop))?;
        Ok(rows(rig.words("normed", x.len())?, tokens))
    }),
    ("linear", |rig, x, tokens| {
        rig.poison("y", tokens * ROWS);
        let matrix = Weights::random(&mut Random::new(2), Format::Q4K, ROWS, COLUMNS).matrix(rig.gpu(), 1);
        let xs = tensor(rig.gpu(), x, COLUMNS);
        rig.run(|step| step.project("y", &xs, &matrix).map(drop))?;
        Ok(rows(rig.words("y", tokens * ROWS)?, tokens))
    }),
    ("experts", |rig, x, tokens| {
        let (random, gpu) = (&mut Random::new(3), rig.gpu());
        let (experts, ranks, ff) = (4, 2, 32);
        let gate_up = Weights::random(random, Format::Q8_0, experts * 2 * ff, COLUMNS).stack(gpu, experts, 1);
        let down = Weights::random(random, Format::Q8_0, experts * COLUMNS, ff).stack(gpu, experts, 1);
        let routed: Vec<u32> = (0..tokens as u32).flat_map(|t| [t % 4, (t + 1) % 4]).collect();
        let gates = gpu.upload("gates", &vec![0.5f32; routed.len()]).unwrap();
        let routing = Routing { routed: gpu.upload("routed", &routed).unwrap(), gates, experts, ranks };
        let gate_up = ExpertGateUp::Joined(gate_up);
        let mlp = ExpertMlp { gate_up, down, bias: None, activation: Activation::Silu };
        let (norm, _) = norm(gpu, random, COLUMNS);
        let y = tensor(gpu, x, COLUMNS);
        rig.run(|step| step.norm_experts(&y, &norm, &routing, &mlp))?;
        Ok(rows(guarded(rig.gpu(), &y.view, x.len())?, tokens))
    }),
    // The queries; what is cached is sound.
    ("attention", |rig, x, tokens| {
        let (heads, kv_heads, head_dim) = (4, 2, 64);
        rig.poison("attended", x.len());
        let cached = Random::new(4).floats((9 + tokens) * kv_heads * head_dim);
        let view = rig.gpu().upload("cache", &twins::round_f16(&cached)).unwrap();
        let kv =
            KvLayer { k: view.clone().into(), v: Some(view.into()), index: None, format: KvFormat::F32, ring: None };
        let a = Attention { heads, kv_heads, head_dim, scale: 0.125, window: None, sinks: None };
        let qs = tensor(rig.gpu(), x, COLUMNS);
        rig.run(|step| step.attention(&qs, &a, &kv).map(drop))?;
        Ok(rows(rig.words("attended", x.len())?, tokens))
    }),
];

fn rows(words: Vec<u32>, tokens: usize) -> Vec<Vec<u32>> {
    words.chunks(words.len() / tokens).map(<[u32]>::to_vec).collect()
}

pub fn cases(cases: &mut Vec<Case>) {
    for &(name, run) in OPERATORS {
        for tokens in [2, 7, 33] {
            cases.push(Case::new(format!("leak/{name}/tokens={tokens}"), move |setup| {
                let sound = Random::new(tokens as u64).floats(tokens * COLUMNS);
                let spoiled = tokens / 2;
                let mut x = sound.clone();
                x[spoiled * COLUMNS..][..COLUMNS].fill(f32::NAN);
                let mut outputs = Vec::new();
                for x in [&sound, &x] {
                    let mut rig = Rig::new(setup, tokens, State::at(9), &[]);
                    outputs.push(run(&mut rig, x, tokens)?);
                }
                match (0..tokens).find(|t| *t != spoiled && outputs[0][*t] != outputs[1][*t]) {
                    Some(t) => Err(format!("token {spoiled} was no number, and token {t} changed")),
                    None => Ok(()),
                }
            }));
        }
    }
}
