//! Hyper-connections: what a half reads of the streams, and how its result joins them.

use crate::rig::*;
use halogen::ops::{HyperConnection, Joining, twins};

pub fn cases(cases: &mut Vec<Case>) {
    // The last are DeepSeek-V4's Flash and Pro.
    for hidden in [4, 64, 100, 1028, 4096, 7168] {
        for tokens in [1, 2, 3, 4, 9] {
            if hidden < 4096 || tokens < 3 {
                cases.push(Case::new(format!("hyper/hidden={hidden}/tokens={tokens}"), move |setup| {
                    run(setup, hidden, tokens)
                }));
            }
        }
    }
}

/// Weights on the host.
struct Weights {
    matrix: Vec<f32>,
    base: Vec<f32>,
    scale: Vec<f32>,
}

impl Weights {
    fn random(random: &mut Random, hidden: usize, head: bool) -> Weights {
        let rows = HyperConnection::rows(head);
        let small = 1.0 / (hidden as f32).sqrt();
        Weights {
            matrix: random.floats(rows * 4 * hidden).iter().map(|x| x * small).collect(),
            base: random.floats(rows),
            scale: random.floats(if head { 1 } else { 3 }).iter().map(|x| 1.0 + x).collect(),
        }
    }

    fn twin(&self) -> twins::Hyper<'_> {
        let Weights { matrix, base, scale } = self;
        twins::Hyper { matrix, base, scale, norm_eps: 1e-5, eps: 1e-3, iterations: 20 }
    }

    fn on(&self, rig: &Rig, hidden: usize, head: bool) -> HyperConnection {
        let up = |values: &[f32]| rig.gpu().upload("hyper", values).unwrap();
        let t = self.twin();
        HyperConnection {
            matrix: up(&self.matrix),
            base: up(&self.base),
            scale: up(&self.scale),
            hidden,
            head,
            norm_eps: t.norm_eps,
            eps: t.eps,
            iterations: t.iterations,
        }
    }
}

/// The beginning, a half of a layer, and the head.
fn run(setup: &Setup, hidden: usize, tokens: usize) -> Outcome {
    let random = &mut Random::new((hidden + tokens) as u64);
    let (first, second) = (Weights::random(random, hidden, false), Weights::random(random, hidden, false));
    let head = Weights::random(random, hidden, true);
    let [e, y1, y2] = [0; 3].map(|_| random.floats(tokens * hidden));
    let mut rig = Rig::new(setup, tokens, State::at(3), &[]);
    let [e_on, y1_on, y2_on] = [&e, &y1, &y2].map(|values| tensor(rig.gpu(), values, hidden));
    let (first_on, second_on) = (first.on(&rig, hidden, false), second.on(&rig, hidden, false));
    let head_on = head.on(&rig, hidden, true);
    for (name, columns) in [("of streams", hidden), ("streams", 4 * hidden), ("stream mix", 20)] {
        rig.poison(name, tokens * columns);
    }
    let streams: Vec<Vec<f32>> = e.chunks_exact(hidden).map(|e| e.repeat(4)).collect();
    rig.run(|step| step.hyper_connection(Joining::Embedding(&e_on), &first_on).map(drop))?;
    let streams = held(&rig, "of embedding", streams, &first.twin())?;
    rig.run(|step| step.hyper_connection(Joining::Branch(&y1_on), &second_on).map(drop))?;
    let streams = join(&streams, &y1, hidden);
    let streams = held(&rig, "of branch", streams, &second.twin())?;
    rig.run(|step| step.hyper_connection(Joining::Branch(&y2_on), &head_on).map(drop))?;
    held(&rig, "of head", join(&streams, &y2, hidden), &head.twin()).map(drop)
}

/// Streams of each token with their weights.
type Weighed = Vec<(Vec<f32>, twins::StreamWeights)>;

fn join(streams: &Weighed, y: &[f32], hidden: usize) -> Vec<Vec<f32>> {
    streams.iter().zip(y.chunks_exact(hidden)).map(|((s, w), y)| twins::hyper_join(s, y, w)).collect()
}

/// Holds the device's streams, and what it read of them, against the twin's.
fn held(rig: &Rig, what: &str, streams: Vec<Vec<f32>>, h: &twins::Hyper) -> Result<Weighed, String> {
    let width = streams[0].len();
    let all = streams.concat();
    compare(&format!("streams {what}"), &rig.floats("streams", all.len())?, &all, width, 1e-7)?;
    let streams: Weighed = streams
        .into_iter()
        .map(|s| {
            let weights = twins::hyper_weights(&s, h);
            (s, weights)
        })
        .collect();
    let want: Vec<f32> = streams.iter().flat_map(|(s, w)| twins::hyper_read(s, w)).collect();
    compare(&format!("x {what}"), &rig.floats("of streams", want.len())?, &want, width / 4, 1e-7)?;
    if h.base.len() > 4 {
        let mix = |(_, w): &(Vec<f32>, twins::StreamWeights)| [w.post].into_iter().chain(w.comb).flatten().collect();
        let want: Vec<f32> = streams.iter().flat_map(|s| -> Vec<f64> { mix(s) }).map(|x| x as f32).collect();
        compare(&format!("mix {what}"), &rig.floats("stream mix", want.len())?, &want, 20, 1e-9)?;
    }
    Ok(streams)
}
