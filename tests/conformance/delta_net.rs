//! The gated delta net with its convolution and its states, and sigmoid gates.

use crate::rig::*;
use halogen::ops::{DeltaHeads, DeltaNet, KeySharing, Norm, RecurrentLayer, twins};

pub fn cases(cases: &mut Vec<Case>) {
    use KeySharing::{Grouped, Tiled};
    // [key heads, value heads, key dim, value dim, taps]; the last is Qwen3-Next's, with fewer heads.
    for (sizes, sharing) in [
        ([1, 1, 4, 4, 1], Grouped),
        ([2, 4, 16, 16, 4], Grouped),
        ([2, 4, 16, 16, 4], Tiled),
        ([3, 9, 8, 12, 2], Tiled),
        ([2, 6, 20, 64, 16], Grouped),
        ([2, 4, 128, 128, 4], Grouped),
        ([2, 4, 128, 128, 4], Tiled),
    ] {
        let [key_heads, value_heads, key_dim, value_dim, taps] = sizes;
        let heads = DeltaHeads { key_heads, value_heads, key_dim, value_dim, taps, sharing };
        for (tokens, position) in [(1, 0), (1, 1), (1, 700), (2, 0), (3, 5), (7, 2), (64, 0), (129, 9)] {
            cases.extend(both(heads, tokens, position));
        }
    }
    // Chunks that are full, short of a token, and followed by one; and sixteen of them.
    let heads = DeltaHeads {
        key_heads: 2,
        value_heads: 4,
        key_dim: 128,
        value_dim: 128,
        taps: 4,
        sharing: KeySharing::Grouped,
    };
    for (tokens, position) in [(31, 0), (31, 4), (32, 0), (32, 1), (33, 0), (33, 700), (512, 3)] {
        cases.extend(both(heads, tokens, position));
    }
    // More tokens than one dispatch takes.
    let heads =
        DeltaHeads { key_heads: 1, value_heads: 2, key_dim: 128, value_dim: 16, taps: 4, sharing: KeySharing::Grouped };
    cases.extend([(1100, 3), (2090, 0)].into_iter().flat_map(|(tokens, position)| both(heads, tokens, position)));
    for (tokens, columns, share) in [(1, 4, 4), (1, 4096, 1), (7, 96, 8), (129, 512, 512), (33, 12, 1)] {
        let name = format!("gate/columns={columns}/share={share}/tokens={tokens}");
        cases.push(Case::new(name, move |setup| gate(setup, tokens, columns, share)));
    }
}

/// The delta net of a published model.
pub fn of_model(cases: &mut Vec<Case>, heads: DeltaHeads) {
    for (tokens, position) in [(1, 700), (9, 5)] {
        cases.extend(both(heads, tokens, position));
    }
}

/// Token by token in one kernel, and in chunks.
fn both(heads: DeltaHeads, tokens: usize, position: usize) -> [Case; 2] {
    [("scan", usize::MAX), ("chunks", 1)].map(|(form, delta_chunked)| {
        let name = format!("{}/{form}", name(&heads, tokens, position));
        Case::new(name, move |setup| delta_net(setup, heads, tokens, position, delta_chunked))
    })
}

fn name(h: &DeltaHeads, tokens: usize, position: usize) -> String {
    format!(
        "delta_net/heads={}x{}/dims={}x{}/taps={}/{:?}/tokens={tokens}/position={position}",
        h.value_heads, h.key_heads, h.key_dim, h.value_dim, h.taps, h.sharing
    )
}

fn delta_net(setup: &Setup, h: DeltaHeads, tokens: usize, position: usize, delta_chunked: usize) -> Outcome {
    let random = &mut Random::new((h.channels() + tokens + position) as u64);
    let (channels, inner) = (h.channels(), h.inner());
    // a, then a gap, then z, then b.
    let (a_at, z_at) = (channels, channels + h.value_heads + 4);
    let b_at = z_at + inner;
    let columns = b_at + h.value_heads + 1;
    let mut x = random.floats(tokens * columns);
    // Gates from shut to open, and far beyond.
    for row in x.chunks_exact_mut(columns) {
        row[a_at..a_at + h.value_heads].iter_mut().for_each(|a| *a *= 6.0);
        row[b_at] *= 100.0;
    }
    let weights = random.floats(h.taps * channels);
    // Heads that forget nothing, little, much, and all but the last token.
    let decay: Vec<[f32; 2]> = (0..h.value_heads).map(|i| [-[0.0, 0.01, 0.5, 40.0][i % 4], random.float()]).collect();
    let mut rig = Rig::new(setup, tokens, State::at(position), &[]);
    let gpu = rig.gpu();
    let (norm, norm_weight) = norm(gpu, random, h.value_dim);
    // What was before the first position counts for nothing, whatever lies there.
    let past = random.floats((h.taps - 1) * channels);
    let delta = random.floats(inner * h.key_dim);
    let known = |i: usize| position + i >= h.taps - 1;
    let held: Vec<f32> = past.iter().enumerate().map(|(i, x)| if known(i / channels) { *x } else { 0.0 }).collect();
    let mut states: Vec<f64> = delta.iter().map(|s| if position == 0 { 0.0 } else { f64::from(*s) }).collect();

    let net = DeltaNet {
        heads: h,
        at: [z_at, b_at, a_at],
        taps: gpu.upload("taps", &weights).unwrap(),
        gates: gpu.upload("gates", &decay).unwrap(),
        norm: Norm { weight: norm.weight, ..norm },
    };
    let state =
        RecurrentLayer { conv: upload_guarded(gpu, "past", &past), delta: upload_guarded(gpu, "delta", &delta) };
    rig.poison("delta q k v", tokens * channels);
    rig.poison("delta", tokens * inner);
    let xs = tensor(gpu, &x, columns);
    rig.run(|step| {
        step.tune(|tuning| tuning.delta_chunked = delta_chunked);
        step.delta_net(&xs, &net, &state).map(drop)
    })?;
    if delta_chunked == 1 && tokens <= 512 && rig.dispatches != 4 {
        return Err(format!("{} dispatches in chunks", rig.dispatches));
    }

    let part = |at: usize, len: usize| -> Vec<f32> {
        x.chunks_exact(columns).flat_map(|r| r[at..at + len].to_vec()).collect()
    };
    let inputs = part(0, channels);
    let qkv = twins::short_conv(&inputs, &held, &weights, &h);
    compare("q k v", &rig.floats("delta q k v", qkv.len())?, &qkv, channels, 1e-7)?;
    let (z, b, a) = (part(z_at, inner), part(b_at, h.value_heads), part(a_at, h.value_heads));
    let gates = twins::DeltaGates { z: &z, b: &b, a: &a, decay: &decay, norm: &norm_weight, eps: net.norm.eps };
    let want = twins::delta_net(&qkv, &gates, &h, &mut states);
    // A chain of tokens, each of which adds its roundings to the state.
    compare("out", &rig.floats("delta", want.len())?, &want, inner, 1e-6)?;
    let got = guarded(gpu, &state.delta, delta.len())?;
    let states: Vec<f32> = states.iter().map(|s| *s as f32).collect();
    compare("state", bytemuck::cast_slice(&got), &states, h.key_dim * h.value_dim, 1e-6)?;
    let got = guarded(gpu, &state.conv, past.len())?;
    let seen = [held, inputs].concat();
    if got.iter().zip(&seen[seen.len() - past.len()..]).any(|(got, want)| *got != want.to_bits()) {
        return Err("the convolution's past is not the last inputs".into());
    }
    Ok(())
}

fn gate(setup: &Setup, tokens: usize, columns: usize, share: usize) -> Outcome {
    let random = &mut Random::new((tokens * columns + share) as u64);
    let (at, gates) = (5, columns / share);
    let stride = at + gates + 3;
    let y = random.floats(tokens * columns);
    let mut g = random.floats(tokens * stride);
    g.iter_mut().enumerate().for_each(|(i, g)| *g *= [1.0, 10.0, 1000.0][i % 3]);
    let mut rig = Rig::new(setup, tokens, State::at(0), &[]);
    let gpu = rig.gpu();
    let (ys, gs) = (tensor(gpu, &y, columns), tensor(gpu, &g, stride));
    rig.run(|step| step.gate(&ys, &gs, at, share))?;
    let of: Vec<f32> = g.chunks_exact(stride).flat_map(|row| row[at..at + gates].to_vec()).collect();
    let got = guarded(gpu, &ys.view, y.len())?;
    compare("y", bytemuck::cast_slice(&got), &twins::gate(&y, &of, share), columns, 1e-7)
}
