//! What an answer took, as a line and as JSON.

use super::answer::Answer;
use super::setup::Runner;
use crate::cli::human;
use std::fmt;

/// The stats of `--json`; those of the last line on stderr are among them.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Stats {
    pub prompt_tokens: usize,
    pub cached_tokens: usize,
    pub generated_tokens: usize,
    pub load_seconds: f64,
    pub load_bytes: u64,
    pub prefill_tokens_per_second: Option<f64>,
    pub decode_tokens_per_second: Option<f64>,
    pub dispatches_per_token: usize,
    pub submits_per_token: f64,
    pub readbacks_per_token: f64,
    pub host_microseconds_per_token: f64,
    pub weight_bytes_per_token: u64,
}

impl Stats {
    pub fn new(runner: &Runner, answer: &Answer) -> Stats {
        let (stats, load) = (&answer.stats, runner.model.load_stats());
        let computed = stats.prompt_tokens - stats.cached_tokens;
        let per_step = |n: usize| if stats.decode_steps == 0 { 0.0 } else { n as f64 / stats.decode_steps as f64 };
        Stats {
            prompt_tokens: stats.prompt_tokens,
            cached_tokens: stats.cached_tokens,
            generated_tokens: stats.generated_tokens,
            load_seconds: load.time.as_secs_f64(),
            load_bytes: load.bytes,
            prefill_tokens_per_second: speed(computed, stats.prefill.as_secs_f64()),
            decode_tokens_per_second: speed(stats.generated_tokens.saturating_sub(1), stats.decode.as_secs_f64()),
            dispatches_per_token: stats.dispatches_per_token,
            submits_per_token: per_step(stats.decode_submits),
            readbacks_per_token: per_step(stats.decode_steps),
            host_microseconds_per_token: per_step(1) * stats.decode_host.as_secs_f64() * 1e6,
            weight_bytes_per_token: runner.session.decode_recording().cost().weight_bytes,
        }
    }
}

/// Tokens a second; `None` where there was nothing to measure.
fn speed(tokens: usize, seconds: f64) -> Option<f64> {
    (tokens > 0 && seconds > 0.0).then(|| tokens as f64 / seconds)
}

impl fmt::Display for Stats {
    /// The last line on stderr.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let at = |speed: Option<f64>| speed.map_or(String::new(), |s| format!(" at {} tok/s", human::short(s)));
        write!(f, "prompt {}{}", self.prompt_tokens, at(self.prefill_tokens_per_second))?;
        write!(f, " | answer {}{}", self.generated_tokens, at(self.decode_tokens_per_second))?;
        let rate = self.load_bytes as f64 / self.load_seconds.max(1e-9);
        let (seconds, rate) = (human::seconds(self.load_seconds), human::short(rate / 1e9));
        write!(f, " | loaded in {seconds}, {rate} GB/s")?;
        write!(f, " | {} of weights a token", human::bytes(self.weight_bytes_per_token))
    }
}
