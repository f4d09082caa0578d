//! A model whose experts come and go, against the bound that its misses set: a step takes what it takes where all experts are
//! there, and what is missing takes the time to read it.

mod plot;
mod rates;

pub use plot::expert_plot;

use super::{Error, Random, Result, Row, Skew, Summary};
use crate::gguf::Gguf;
use crate::gpu::Gpu;
use crate::memory::{Backing, Placement, StoreStats, available_bytes, expert_bytes};
use crate::presets::Usage;
use crate::session::{LoadOptions, Model, Sampling, Session, SessionOptions, Stats};
use serde::Serialize;
use std::sync::Arc;

/// What is measured.
pub struct ExpertBench<'a> {
    pub gpu: &'a Gpu,
    pub gguf: &'a Gguf,
    pub options: &'a SessionOptions,
    /// Percent of the experts' bytes; 100: all are resident.
    pub shares: &'a [u32],
    /// Layers from the first on whose experts live in host memory, whatever the share.
    pub on_host: u32,
    pub backing: Backing,
    /// What is asked of the routers of a made-up model.
    pub usage: Option<&'a Usage>,
    /// Decoded one by one in a run.
    pub tokens: usize,
    /// Runs of every share.
    pub rounds: usize,
}

/// One budget; medians over the rounds.
#[derive(Clone, Debug, Serialize)]
pub struct ExpertRow {
    /// `tg64 @ 50 %`, in tokens a second.
    #[serde(flatten)]
    pub row: Row,
    /// Percent of the experts' bytes.
    pub share: u32,
    pub expert_bytes: u64,
    /// Of the experts that steps needed, those that were there.
    pub hit_rate: f64,
    pub missed_bytes_per_token: f64,
    /// How often a token stood still for experts.
    pub halts_per_token: f64,
    /// Of the time, what steps stood still for missing experts.
    pub stalled: f64,
    /// 1 / (resident step + missed bytes / read rate)
    pub bound_tokens_per_second: f64,
    pub fraction_of_bound: f64,
    /// What a halt takes beside reading: what a token takes beyond the bound's time, over its halts.
    pub seconds_per_halt: Option<f64>,
    /// Against the budget of half the size, where that is measured.
    pub halving: Option<Halving>,
}

/// What half a budget costs.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Halving {
    /// The share that is half.
    pub share: u32,
    /// Time of a token there over the time here: measured, and of the bounds.
    pub cost: f64,
    pub bound_cost: f64,
    /// The first over the second.
    pub excess: f64,
    /// No more than the bound says and [`MOST_EXCESS`].
    pub within: bool,
}

/// Of what half a budget may cost beside its bound.
pub const MOST_EXCESS: f64 = 1.15;

/// All budgets, and what they are held against.
#[derive(Clone, Debug, Serialize)]
pub struct ExpertReport {
    pub rows: Vec<ExpertRow>,
    /// Of a decode step where all experts are there: measured, or where they do not fit the largest budget's without its stalls.
    pub resident_step_seconds: f64,
    /// Random reads of this model's experts, as many in flight as the store has, or the way to the device if that is slower.
    pub read_bytes_per_second: f64,
    pub kept: Kept,
    /// Of a made-up model's routers.
    pub skew: Option<Skew>,
}

/// Where the experts are that are not on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kept {
    File,
    Host,
    /// In host memory, and read there.
    InPlace,
}

/// A budget, its model while there is room for it, and what each round gave.
struct Budget {
    share: u32,
    placement: Placement,
    loaded: Option<(Arc<Model>, Session)>,
    runs: Vec<Run>,
    skew: Option<Skew>,
}

/// What a run of one budget took.
struct Run {
    /// Of a token.
    seconds: f64,
    stats: StoreStats,
}

/// Tokens of the prompt, which also fills slots.
const PROMPT: usize = 16;

impl ExpertBench<'_> {
    /// Decodes tokens after a short prompt of random ones, in rounds: each has its prompt, goes through all shares, the next one
    /// in the other order, and measures the reads. What changes on the machine meets all shares alike.
    ///
    /// # Errors
    /// A share that does not hold one token's experts; whatever loading and generating fail with.
    pub fn run(&self) -> Result<ExpertReport> {
        let case = |problem: &str| Error::Case { name: self.gguf.name().into(), problem: problem.into() };
        if expert_bytes(self.gguf) == 0 {
            return Err(case("no layer has experts"));
        }
        let mut shares = self.shares.to_vec();
        shares.sort_unstable_by(|a, b| b.cmp(a));
        shares.dedup();
        let mut budgets = shares.into_iter().map(|share| self.budget(share)).collect::<Result<Vec<Budget>>>()?;
        if budgets.is_empty() {
            return Err(case("no budget to measure"));
        }
        let keep = self.all_fit(&budgets);
        let (mut read, mut kept) = (Vec::new(), Kept::File);
        for round in 0..self.rounds.max(1) {
            for i in 0..budgets.len() {
                let at = if round % 2 == 0 { i } else { budgets.len() - 1 - i };
                if self.round(&mut budgets[at], round, keep)? {
                    kept = Kept::Host;
                }
            }
            if self.backing == Backing::InPlace {
                kept = Kept::InPlace;
            }
            read.push(rates::bring_rate(self.gpu, self.gguf, kept)?);
        }
        Ok(self.report(&budgets, &read, kept))
    }

    fn budget(&self, share: u32) -> Result<Budget> {
        let placement = Placement::of_share(self.gguf, share, self.on_host).map_err(crate::session::Error::from)?;
        Ok(Budget { share, placement, loaded: None, runs: Vec::new(), skew: None })
    }

    /// Whether the models of all budgets have room beside each other, twice over: the page cache wants some, too.
    fn all_fit(&self, budgets: &[Budget]) -> bool {
        let info = self.gpu.info();
        let dense = self.gguf.data_bytes().saturating_sub(expert_bytes(self.gguf));
        let needed: u64 = budgets.iter().map(|budget| dense + self.slots(budget)).sum();
        available_bytes(info.device_type, self.gpu.heaps()).is_some_and(|available| needed <= available / 2)
    }

    /// Bytes of a budget's experts on the device.
    fn slots(&self, budget: &Budget) -> u64 {
        budget.placement.experts.map_or(expert_bytes(self.gguf), |memory| memory.bytes)
    }

    /// A run of a budget; whether its experts are kept in host memory.
    fn round(&self, budget: &mut Budget, round: usize, keep: bool) -> Result<bool> {
        let (model, mut session) = match budget.loaded.take() {
            Some(loaded) => loaded,
            None => self.load(budget.placement)?,
        };
        let mut run = self.decode(&model, &mut session, round as u64 + 1)?;
        if self.backing == Backing::InPlace {
            run.stats.bytes = budget.placement.bytes_in_place(self.gguf) * self.tokens as u64;
        }
        budget.runs.push(run);
        if let Some(usage) = self.usage.filter(|_| budget.skew.is_none()) {
            budget.skew = Some(Skew::of(&model, self.options, usage)?);
        }
        let held = model.holds_on_host();
        budget.loaded = keep.then_some((model, session));
        Ok(held)
    }

    /// A model and a session, after a run that is not counted.
    fn load(&self, placement: Placement) -> Result<(Arc<Model>, Session)> {
        let options = LoadOptions { placement, backing: self.backing, ..LoadOptions::default() };
        let model = pollster::block_on(Model::load_with(self.gpu, self.gguf, &options, |_| true))?;
        let context = Some(PROMPT + self.tokens + 1);
        let mut session = Session::new(&model, &SessionOptions { context, ..self.options.clone() })?;
        self.decode(&model, &mut session, 0)?;
        Ok((model, session))
    }

    /// One answer to a prompt of random tokens, timed from the token of the prompt on.
    fn decode(&self, model: &Arc<Model>, session: &mut Session, seed: u64) -> Result<Run> {
        let (mut random, vocabulary) = (Random::new(seed), model.shape().vocabulary);
        let prompt: Vec<u32> = (0..PROMPT).map(|_| random.below(vocabulary) as u32).collect();
        session.clear();
        let mut generation = session.generate(&prompt, &Sampling::greedy(), &[], self.tokens + 1)?;
        generation.blocking_next()?;
        let before = model.store_stats().unwrap_or_default();
        while generation.blocking_next()?.is_some() {}
        let stats = model.store_stats().unwrap_or_default() - before;
        let Stats { decode, decode_tokens, .. } = generation.stats();
        Ok(Run { seconds: decode.as_secs_f64().max(1e-9) / decode_tokens.max(1) as f64, stats })
    }

    fn report(&self, budgets: &[Budget], read: &[f64], kept: Kept) -> ExpertReport {
        let tokens = self.tokens as f64;
        let resident: Vec<f64> =
            budgets[0].runs.iter().map(|run| run.seconds - run.stats.stall.as_secs_f64() / tokens).collect();
        // Of each round: reads and the resident step of the same.
        let bound = |(round, run): (usize, &Run)| resident[round] + run.stats.bytes as f64 / tokens / read[round];
        let bounds: Vec<Vec<f64>> =
            budgets.iter().map(|budget| budget.runs.iter().enumerate().map(bound).collect()).collect();
        let mut rows: Vec<ExpertRow> =
            budgets.iter().zip(&bounds).map(|(budget, bounds)| self.row(budget, bounds)).collect();
        for (i, row) in rows.iter_mut().enumerate() {
            let half = budgets.iter().position(|b| b.share < row.share && (2 * b.share).abs_diff(row.share) <= 1);
            row.halving = half.map(|half| halving(&budgets[i], &bounds[i], &budgets[half], &bounds[half]));
        }
        ExpertReport {
            rows,
            resident_step_seconds: Summary::of(&resident).median,
            read_bytes_per_second: Summary::of(read).median,
            kept,
            skew: budgets[0].skew.clone(),
        }
    }

    fn row(&self, budget: &Budget, bounds: &[f64]) -> ExpertRow {
        let tokens = self.tokens as f64;
        let runs = &budget.runs;
        let median = |of: &dyn Fn(usize, &Run) -> f64| {
            let values: Vec<f64> = runs.iter().enumerate().map(|(round, run)| of(round, run)).collect();
            Summary::of(&values).median
        };
        let total = |of: fn(&StoreStats) -> u64| runs.iter().map(|run| of(&run.stats)).sum::<u64>() as f64;
        let (hits, misses, halts) = (total(|s| s.hits), total(|s| s.misses), total(|s| s.halts));
        let rates: Vec<f64> = runs.iter().map(|run| 1.0 / run.seconds).collect();
        let halts_per_token = halts / tokens / runs.len() as f64;
        let beyond = median(&|round, run| run.seconds - bounds[round]);
        ExpertRow {
            row: Row {
                name: format!("tg{tokens} @ {} %", budget.share),
                unit: "t/s".into(),
                figure: Summary::of(&rates),
            },
            share: budget.share,
            expert_bytes: self.slots(budget),
            hit_rate: if misses > 0.0 { hits / (hits + misses) } else { 1.0 },
            missed_bytes_per_token: total(|s| s.bytes) / tokens / runs.len() as f64,
            halts_per_token,
            stalled: median(&|_, run| run.stats.stall.as_secs_f64() / tokens / run.seconds),
            bound_tokens_per_second: median(&|round, _| 1.0 / bounds[round]),
            fraction_of_bound: median(&|round, run| bounds[round] / run.seconds),
            seconds_per_halt: (halts > 0.0).then_some(beyond / halts_per_token),
            halving: None,
        }
    }
}

/// What `half` costs beside `whole`, round by round.
fn halving(whole: &Budget, whole_bounds: &[f64], half: &Budget, half_bounds: &[f64]) -> Halving {
    let ratios = |of: &dyn Fn(usize) -> f64| Summary::of(&(0..whole.runs.len()).map(of).collect::<Vec<_>>()).median;
    let cost = |round: usize| half.runs[round].seconds / whole.runs[round].seconds;
    let bound = |round: usize| half_bounds[round] / whole_bounds[round];
    let excess = ratios(&|round| cost(round) / bound(round));
    Halving {
        share: half.share,
        cost: ratios(&cost),
        bound_cost: ratios(&bound),
        excess,
        within: excess <= MOST_EXCESS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(share: u32, seconds: &[f64]) -> Budget {
        let run = |seconds: &f64| Run { seconds: *seconds, stats: StoreStats::default() };
        Budget {
            share,
            placement: Placement::default(),
            loaded: None,
            runs: seconds.iter().map(run).collect(),
            skew: None,
        }
    }

    /// A machine that gets twice as slow between rounds is no difference between budgets.
    #[test]
    fn a_half_is_held_against_its_bound_round_by_round() {
        let (whole, half) = (budget(100, &[1.0, 2.0, 2.0]), budget(50, &[1.5, 3.0, 3.0]));
        let said = halving(&whole, &[1.0, 2.0, 2.0], &half, &[1.4, 2.8, 2.8]);
        assert_eq!((said.share, said.cost, said.bound_cost), (50, 1.5, 1.4));
        assert!(said.within && (said.excess - 1.5 / 1.4).abs() < 1e-12);
        assert!(!halving(&whole, &[1.0, 2.0, 2.0], &half, &[1.2, 2.4, 2.4]).within);
    }
}
