//! Sampling: the token that is drawn, what the filters leave, and how the state goes on.

use crate::rig::*;
use crate::rows::Logits;
use halogen::ops::{SampleBuffers, twins};
use std::collections::HashMap;
use twins::Sampling;

const OFF: Sampling =
    Sampling { temperature: 0.8, top_k: 0, top_p: 1.0, min_p: 0.0, repeat_penalty: 1.0, repeat_last: 0 };

pub fn cases(cases: &mut Vec<Case>) {
    for vocabulary in [1, 2, 1023, 1024, 1025, 5000] {
        for (name, sampling) in [
            ("greedy", Sampling { temperature: 0.0, ..OFF }),
            ("greedy+penalty", Sampling { temperature: 0.0, repeat_penalty: 1.5, repeat_last: 5, ..OFF }),
            ("all", OFF),
            ("cold", Sampling { temperature: 0.05, ..OFF }),
            ("top_k=1", Sampling { top_k: 1, ..OFF }),
            ("top_k=40", Sampling { top_k: 40, ..OFF }),
            ("top_k=5000", Sampling { top_k: 5000, ..OFF }),
            ("top_p=0", Sampling { top_p: 0.0, ..OFF }),
            ("top_p=0.9", Sampling { top_p: 0.9, ..OFF }),
            ("min_p=0.05", Sampling { min_p: 0.05, ..OFF }),
            ("min_p=1", Sampling { min_p: 1.0, ..OFF }),
            ("penalty", Sampling { repeat_penalty: 1.3, repeat_last: 64, top_k: 20, ..OFF }),
            (
                "together",
                Sampling { temperature: 1.3, top_k: 50, top_p: 0.95, min_p: 0.02, repeat_penalty: 1.1, repeat_last: 8 },
            ),
        ] {
            for logits in [Logits::Spread, Logits::Ties, Logits::Extremes] {
                // A penalty takes the largest floats beyond what is finite.
                if matches!(logits, Logits::Extremes) && sampling.repeat_penalty != 1.0 {
                    continue;
                }
                let kind = format!("{logits:?}").to_lowercase();
                cases.push(Case::new(format!("sample/{name}/vocabulary={vocabulary}/{kind}"), move |setup| {
                    draws(setup, vocabulary, &sampling, logits)
                }));
            }
        }
    }
    let filtered = Sampling { top_k: 40, top_p: 0.9, repeat_penalty: 1.1, repeat_last: 2048, ..OFF };
    // More than a slice has; and no bound on how many a slice has above the lowest that stays.
    for s in [OFF, filtered, Sampling { top_k: 3000, ..OFF }, Sampling { top_p: 0.95, ..OFF }] {
        let name = format!("sample/large/top_k={}/top_p={}", s.top_k, s.top_p);
        cases.push(Case::new(name, move |setup| draws(setup, 262_144, &s, Logits::Spread)));
    }
    cases.push(Case::new("sample/distribution", distribution));
    cases.push(Case::new("sample/last-row", last_row));
    cases.push(Case::new("sample/halts", halts));
}

/// The state that asks for `s`.
fn state(s: &Sampling, position: usize, seed: u32) -> State {
    State {
        temperature: s.temperature,
        top_k: s.top_k,
        top_p: s.top_p,
        min_p: s.min_p,
        repeat_penalty: s.repeat_penalty,
        repeat_last: s.repeat_last as u32,
        seed,
        ..State::at(position)
    }
}

/// Samples once from `logits` [rows, vocabulary], and gives the state after it.
fn sample(rig: &mut Rig, logits: &[f32], vocabulary: usize) -> Result<State, String> {
    let xs = tensor(rig.gpu(), logits, vocabulary);
    let buffers = SampleBuffers::new(rig.gpu(), vocabulary).map_err(|e| e.to_string())?;
    rig.run(|step| step.sample(&xs, &buffers))?;
    Ok(rig.read_state())
}

/// Draws with several seeds, each against the twin's token for the same number.
fn draws(setup: &Setup, vocabulary: usize, s: &Sampling, kind: Logits) -> Outcome {
    let random = &mut Random::new(vocabulary as u64);
    let logits = kind.draw(random, vocabulary);
    let (position, tokens) = (20.max(s.repeat_last), 3);
    let history: Vec<u32> = (0..position + tokens).map(|_| random.below(vocabulary) as u32).collect();
    let penalised = twins::penalise(&logits, &history, s);
    let stay = twins::candidates(&penalised, s);
    let odds = twins::distribution(&penalised, s);
    for seed in [1, 2, 0xffff_ffff, 77] {
        let mut rig = Rig::new(setup, tokens, state(s, position, seed), &history);
        let after = sample(&mut rig, &logits, vocabulary)?;
        let end = (position + tokens) as u32;
        let token = after.last;
        let u = twins::random(seed, end);
        // Within rounding of a boundary either side is right.
        let near: Vec<u32> = [-1e-5, 0.0, 1e-5].map(|d| twins::draw(&odds, u + d)).to_vec();
        if !near.contains(&token) {
            let stays = if stay.contains(&token) { "stays" } else { "was filtered" };
            return Err(format!("seed {seed}: drew {token}, which {stays}, instead of {} by {u}", near[1]));
        }
        let want = State { position: end, generated: 1, last: token, clock: 1, ..state(s, position, seed) };
        if after != want {
            return Err(format!("state {after:?} instead of {want:?}"));
        }
        let written = rig.gpu().blocking_read::<u32>(&rig.history).unwrap();
        if written[..end as usize] != history || written[end as usize] != token {
            return Err("the history does not end with the token".into());
        }
        if rig.repeat(&logits, vocabulary)? != token {
            return Err(format!("seed {seed} drew another token the second time"));
        }
    }
    Ok(())
}

impl Rig<'_> {
    /// The token that the same step draws when it runs again.
    fn repeat(&mut self, logits: &[f32], vocabulary: usize) -> Result<u32, String> {
        let before = self.read_state();
        let again = State { position: before.position - 3, generated: 0, last: 0, ..before };
        self.gpu().write(&self.state, 0, bytemuck::bytes_of(&again)).map_err(|e| e.to_string())?;
        Ok(sample(self, logits, vocabulary)?.last)
    }
}

/// Many draws from few tokens: each as often as its probability says.
fn distribution(setup: &Setup) -> Outcome {
    let s = Sampling { temperature: 0.7, top_k: 6, ..OFF };
    let logits = [1.0, 0.2, -0.5, 2.0, -3.0, 1.5, 0.9, -1.0];
    let odds: HashMap<u32, f64> = twins::distribution(&logits, &s).into_iter().collect();
    let mut counts: HashMap<u32, usize> = HashMap::new();
    let mut rig = Rig::new(setup, 1, state(&s, 0, 12345), &[]);
    let xs = tensor(rig.gpu(), &logits, logits.len());
    let buffers = SampleBuffers::new(rig.gpu(), logits.len()).unwrap();
    let draws = 2000;
    let run = State { context: 4096, limit: 10_000, ..state(&s, 0, 12345) };
    rig.gpu().write(&rig.state, 0, bytemuck::bytes_of(&run)).map_err(|e| e.to_string())?;
    rig.run_times(draws, |step| step.sample(&xs, &buffers))?;
    for token in &rig.gpu().blocking_read::<u32>(&rig.history).unwrap()[1..=draws] {
        *counts.entry(*token).or_default() += 1;
    }
    // Chi-square with 5 degrees of freedom: above 25.7 once in 10,000 seeds.
    let expected = |token: &u32| odds.get(token).copied().unwrap_or(0.0) * draws as f64;
    if let Some(token) = counts.keys().find(|t| expected(t) == 0.0) {
        return Err(format!("token {token} was filtered, and drawn"));
    }
    let chi: f64 = odds.keys().map(|t| (*counts.get(t).unwrap_or(&0) as f64 - expected(t)).powi(2) / expected(t)).sum();
    if chi < 25.7 { Ok(()) } else { Err(format!("chi-square {chi:.1}: {counts:?}")) }
}

/// Of several rows of logits the last counts.
fn last_row(setup: &Setup) -> Outcome {
    let mut logits = vec![0.0; 3 * 1500];
    (logits[7], logits[1500 + 8], logits[3000 + 1400]) = (9.0, 9.0, 9.0);
    let mut rig = Rig::new(setup, 3, State::at(0), &[]);
    match sample(&mut rig, &logits, 1500)?.last {
        1400 => Ok(()),
        other => Err(format!("drew {other} instead of 1400")),
    }
}

/// Stop tokens, the limit, the context: each halts, and a halted step changes nothing.
fn halts(setup: &Setup) -> Outcome {
    let logits = [0.0, 3.0, 1.0, 0.0];
    let mut stop = [9; 32];
    stop[30] = 1;
    let base = State::at(10);
    for (what, before, halt) in [
        ("nothing", base, 0),
        ("a stop token", State { stop, stop_count: 31, ..base }, 1),
        ("a stop token beyond the count", State { stop, stop_count: 30, ..base }, 0),
        ("the limit", State { limit: 1, ..base }, 2),
        ("the context", State { context: 11, ..base }, 3),
        ("one before the context", State { context: 12, ..base }, 0),
        ("a stop token at the limit", State { stop, stop_count: 31, limit: 1, context: 11, ..base }, 1),
    ] {
        let mut rig = Rig::new(setup, 1, before, &[0; 10]);
        let after = sample(&mut rig, &logits, 4)?;
        if (after.halt, after.last, after.position) != (halt, 1, 11) {
            return Err(format!("{what}: {after:?}"));
        }
        if halt != 0 && sample(&mut rig, &logits, 4)? != after {
            return Err(format!("{what}: the halted state went on"));
        }
    }
    Ok(())
}
