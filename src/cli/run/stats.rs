//! What an answer took, as a line and as JSON, and how that compares with what the device could do.

use super::answer::Answer;
use super::setup::Runner;
use crate::cli::{human, model};
use halogen::gpu::DeviceProfile;
use halogen::memory::{Extent, KvCache, StoreStats};
use halogen::session;
use std::fmt;

/// The stats of `--json`; those of the last line on stderr are among them.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Stats {
    pub prompt_tokens: usize,
    /// Of the prompt, those that were in the cache from an earlier answer.
    pub cached_tokens: usize,
    pub generated_tokens: usize,
    pub load_seconds: f64,
    pub load_bytes: u64,
    /// `None` where there was nothing to measure; so below.
    pub prefill_tokens_per_second: Option<f64>,
    pub decode_tokens_per_second: Option<f64>,
    pub dispatches_per_token: usize,
    pub submits_per_token: f64,
    /// Where a token takes more than one: why.
    pub submits_reason: Option<String>,
    pub readbacks_per_token: f64,
    pub host_microseconds_per_token: f64,
    pub weight_bytes_per_token: u64,
    /// Where experts come and go: since the model was loaded.
    pub experts: Option<StoreStats>,
    /// At the mean position of the answer.
    pub kv_bytes_per_token: u64,
    /// Which layers lie on which device.
    pub devices: Vec<serde_json::Value>,
    /// The device's rates, from its profile; of several devices none.
    pub stream_bytes_per_second: Option<f64>,
    pub dispatch_seconds: Option<f64>,
    /// Of the time of a token, what reading its bytes takes at least.
    pub fraction_of_bandwidth: Option<f64>,
    /// Of the time of a token, what reading its bytes and launching its dispatches take at least.
    pub fraction_of_bound: Option<f64>,
    /// The larger of the two.
    pub dominant: Option<Term>,
}

/// What bounds a decode step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Term {
    Bandwidth,
    Launch,
}

impl Stats {
    pub fn new(runner: &Runner, answer: &Answer) -> Stats {
        let (stats, load) = (&answer.stats, runner.model.load_stats());
        let computed = stats.prompt_tokens - stats.cached_tokens;
        let per_step = |total: f64| if stats.decode_steps == 0 { 0.0 } else { total / stats.decode_steps as f64 };
        let mean_position = stats.prompt_tokens + stats.generated_tokens / 2;
        let read = Extent { positions: mean_position, beyond: 0 };
        Stats {
            prompt_tokens: stats.prompt_tokens,
            cached_tokens: stats.cached_tokens,
            generated_tokens: stats.generated_tokens,
            load_seconds: load.time.as_secs_f64(),
            load_bytes: load.bytes,
            prefill_tokens_per_second: speed(computed, stats.prefill.as_secs_f64()),
            decode_tokens_per_second: speed(stats.decode_tokens, stats.decode.as_secs_f64()),
            dispatches_per_token: stats.dispatches_per_token,
            submits_per_token: per_step(stats.decode_submits as f64),
            submits_reason: submits_reason(runner, stats, mean_position),
            readbacks_per_token: per_step(stats.decode_steps as f64),
            host_microseconds_per_token: per_step(stats.decode_host.as_secs_f64() * 1e6),
            weight_bytes_per_token: runner.session.decode_recordings().map(|r| r.cost().weight_bytes).sum(),
            experts: runner.model.store_stats(),
            kv_bytes_per_token: KvCache::bytes(&runner.model.shape().keeps, read, runner.session.cache().format()),
            devices: model::devices(&runner.model),
            stream_bytes_per_second: None,
            dispatch_seconds: None,
            fraction_of_bandwidth: None,
            fraction_of_bound: None,
            dominant: None,
        }
        .against(runner, read)
    }

    /// bound = bytes / stream rate + dispatches * cost of a dependent empty dispatch, in seconds a token.
    /// Of several devices one waits for the other: their times add up.
    fn against(self, runner: &Runner, read: Extent) -> Stats {
        let Some(profiles) = runner.profiles.iter().copied().collect::<Option<Vec<DeviceProfile>>>() else {
            return self;
        };
        let (keeps, format) = (&runner.model.shape().keeps, runner.session.cache().format());
        let (mut bandwidth, mut launch) = (0.0, 0.0);
        let parts = runner.session.decode_recordings().zip(runner.model.devices());
        for (profile, (recording, (_, layers))) in profiles.iter().zip(parts) {
            let bytes = recording.cost().weight_bytes + KvCache::bytes(&keeps[layers], read, format);
            bandwidth += bytes as f64 / profile.stream_bytes_per_second;
            launch += recording.dispatches.len() as f64 * profile.dispatch_seconds;
        }
        let alone = profiles.first().filter(|_| profiles.len() == 1);
        let rate = self.decode_tokens_per_second;
        Stats {
            stream_bytes_per_second: alone.map(|profile| profile.stream_bytes_per_second),
            dispatch_seconds: alone.map(|profile| profile.dispatch_seconds),
            fraction_of_bandwidth: rate.map(|rate| bandwidth * rate),
            fraction_of_bound: rate.map(|rate| (bandwidth + launch) * rate),
            dominant: Some(if bandwidth >= launch { Term::Bandwidth } else { Term::Launch }),
            ..self
        }
    }
}

/// Why tokens took more submits than there are steps.
fn submits_reason(runner: &Runner, stats: &session::Stats, positions: usize) -> Option<String> {
    if stats.decode_submits <= stats.decode_steps {
        return None;
    }
    let (step, bound) = (runner.session.step_estimate(positions), runner.session.submit_bound());
    let [step_time, bound_time] = [step, bound].map(|time| human::seconds(time.as_secs_f64()));
    let cut =
        format!("a token is estimated at {step_time} of GPU time, a submit holds {bound_time} at most (--submit-ms)");
    let brought = "steps went on in submits of their own behind weights that were not on the device".to_string();
    let waited = step <= bound || runner.model.store_stats().is_some_and(|store| store.misses > 0);
    let reasons: Vec<String> =
        [(step > bound).then_some(cut), waited.then_some(brought)].into_iter().flatten().collect();
    Some(reasons.join("; "))
}

/// Tokens a second; `None` where there was nothing to measure.
fn speed(tokens: usize, seconds: f64) -> Option<f64> {
    (tokens > 0 && seconds > 0.0).then(|| tokens as f64 / seconds)
}

impl fmt::Display for Stats {
    /// The last line on stderr.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let at = |speed: Option<f64>| speed.map_or(String::new(), |s| format!(" at {} tok/s", human::short(s)));
        write!(f, "prompt {}{}", self.prompt_tokens - self.cached_tokens, at(self.prefill_tokens_per_second))?;
        write!(f, " · answer {}{}", self.generated_tokens, at(self.decode_tokens_per_second))?;
        let rate = human::rate(self.load_bytes as f64 / self.load_seconds.max(1e-9));
        write!(f, " · loaded in {}, {rate}", human::seconds(self.load_seconds))?;
        write!(f, " · {} of weights a token", human::bytes(self.weight_bytes_per_token))?;
        if let Some(StoreStats { hits, misses, bytes, streamed, stall, .. }) = self.experts {
            if hits + misses > 0 {
                let rate = 100.0 * hits as f64 / (hits + misses) as f64;
                write!(f, " · {} % of experts were there", human::short(rate))?;
            }
            if streamed > 0 {
                write!(f, " · {} of layers passed through", human::bytes(streamed))?;
            }
            write!(f, " · {} read in {}", human::bytes(bytes + streamed), human::seconds(stall.as_secs_f64()))?;
        }
        let percent = |fraction: f64| (fraction * 100.0).round();
        match (self.dominant, self.fraction_of_bandwidth, self.fraction_of_bound) {
            (Some(Term::Bandwidth), _, Some(bound)) => write!(f, " · {} % of bandwidth bound", percent(bound)),
            (Some(Term::Launch), Some(bandwidth), Some(bound)) => {
                write!(f, " · {} % of bandwidth, {} % of launch bound", percent(bandwidth), percent(bound))
            }
            _ => Ok(()),
        }?;
        match self.fraction_of_bound {
            Some(bound) if bound > 1.0 => {
                write!(f, " (a cache holds the weights, or the device was busy when measured)")
            }
            _ => Ok(()),
        }
    }
}
