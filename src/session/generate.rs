//! A generation: steps queued ahead of the host, tokens collected as their steps finish.

use super::state::State;
use super::{Error, MAX_STOPS, Result, Sampling, Session, StopReason};
use crate::gpu::Readback;
use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// A token, as its step finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    pub id: u32,
    /// Set on the last token: why no more follow.
    pub stop: Option<StopReason>,
}

/// What a generation took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    pub prompt_tokens: usize,
    /// Of the prompt, those that were cached from before.
    pub cached_tokens: usize,
    /// With the token that ended the answer.
    pub generated_tokens: usize,
    /// From the first submit to the first token.
    pub prefill: Duration,
    /// From the first token to the last.
    pub decode: Duration,
    /// Host time spent encoding decode steps, up to the driver's submit.
    pub decode_host: Duration,
    /// Decode steps submitted, of which each is read back once.
    pub decode_steps: usize,
    pub dispatches_per_token: usize,
    pub prefill_submits: usize,
    /// Submits of all decode steps.
    pub decode_submits: usize,
}

/// Decode steps queued ahead of the token that the host has seen, where the session does not say: what this time holds.
const LEAST_AHEAD: usize = 2;
const MOST_AHEAD: usize = 16;
const AHEAD_TIME: Duration = Duration::from_millis(50);
/// Tokens that the repetition penalty looks back.
const REPEAT_LAST: u32 = 64;

/// Tokens as they arrive: a [`futures::Stream`], or [`Generation::blocking_next`]. Dropping it stops; the session
/// keeps what was cached.
pub struct Generation<'s> {
    session: &'s mut Session,
    /// States on their way back, oldest first.
    queued: VecDeque<Readback>,
    /// Tokens cached once the token seen last is processed: the prompt and the tokens seen, but for the last.
    pending: Option<u32>,
    stats: Stats,
    start: Instant,
    first: Option<Instant>,
    limit: usize,
    done: bool,
    prompt: Vec<u32>,
}

impl Session {
    /// Answers `prompt` (the whole conversation: what is cached of it is not computed again) with at most `limit`
    /// tokens, until one of `stops`. The first steps are queued at once.
    ///
    /// # Errors
    /// An empty prompt, one longer than the context, token ids out of range, bad sampling values.
    pub fn generate(
        &mut self,
        prompt: &[u32],
        sampling: &Sampling,
        stops: &[u32],
        limit: usize,
    ) -> Result<Generation<'_>> {
        sampling.check()?;
        if stops.len() > MAX_STOPS {
            return Err(Error::TooManyStops { count: stops.len() });
        }
        let mut state = State {
            context: self.context() as u32,
            limit: limit.min(u32::MAX as usize) as u32,
            top_k: sampling.top_k,
            temperature: sampling.temperature,
            top_p: sampling.top_p,
            min_p: sampling.min_p,
            repeat_penalty: sampling.repeat_penalty,
            repeat_last: if sampling.repeat_penalty == 1.0 { 0 } else { REPEAT_LAST },
            seed: sampling.seed,
            stop_count: stops.len() as u32,
            ..State::default()
        };
        state.stops[..stops.len()].copy_from_slice(stops);
        let start = Instant::now();
        let (submitted, first) = self.prefill(prompt, state)?;
        let stats = Stats {
            prompt_tokens: prompt.len(),
            cached_tokens: submitted.cached,
            prefill_submits: submitted.submits,
            dispatches_per_token: self.decode_recording().dispatches.len(),
            ..Stats::default()
        };
        let done = limit == 0;
        Ok(Generation {
            session: self,
            queued: VecDeque::from([first]),
            pending: None,
            stats,
            start,
            first: None,
            limit,
            done,
            prompt: prompt.to_vec(),
        })
    }
}

impl Generation<'_> {
    /// Steps to have in flight behind the one that comes next.
    fn ahead(&self) -> usize {
        let seen = self.stats.generated_tokens;
        match (self.session.run_ahead, self.first) {
            (Some(steps), _) => steps,
            (None, Some(first)) if seen > 1 => {
                let step = first.elapsed() / (seen as u32 - 1);
                let fit = AHEAD_TIME.as_nanos() / step.as_nanos().max(1);
                (fit as usize).clamp(LEAST_AHEAD, MOST_AHEAD)
            }
            _ => LEAST_AHEAD,
        }
    }

    fn queue_steps(&mut self) -> Result<()> {
        let ahead = self.ahead();
        while !self.done && self.queued.len() <= ahead {
            let steps = self.stats.generated_tokens + self.queued.len();
            if steps >= self.limit || self.prompt.len() + steps > self.session.context() {
                break;
            }
            let before = self.session.gpu().encode_time();
            self.session.fill_rope(self.prompt.len() + steps)?;
            let (readback, submits) = self.session.decode(self.prompt.len() + steps)?;
            self.stats.decode_host += self.session.gpu().encode_time() - before;
            self.stats.decode_steps += 1;
            self.stats.decode_submits += submits;
            self.queued.push_back(readback);
        }
        Ok(())
    }

    fn arrived(&mut self, bytes: &[u8]) -> Token {
        let state: State = bytemuck::pod_read_unaligned(&bytes[..size_of::<State>()]);
        match self.pending.replace(state.last) {
            // What was queued next has processed the token before.
            Some(processed) => self.session.history.extend([processed]),
            None => {
                let cached = self.stats.cached_tokens;
                let prompt = std::mem::take(&mut self.prompt);
                self.session.history.extend(prompt[cached..].iter().copied());
                self.prompt = prompt;
            }
        }
        let now = Instant::now();
        let first = *self.first.get_or_insert(now);
        self.stats.prefill = first - self.start;
        self.stats.decode = now - first;
        self.stats.generated_tokens += 1;
        let stop = state.stop_reason();
        if stop.is_some() {
            // Steps queued behind the halt are no-ops; their states repeat this one.
            self.done = true;
            self.queued.clear();
            self.session.history.settle();
        }
        Token { id: state.last, stop }
    }

    /// The next token; waits for its step. `None` after the last.
    ///
    /// # Errors
    /// A lost device.
    pub fn blocking_next(&mut self) -> Result<Option<Token>> {
        self.queue_steps()?;
        if self.done {
            return Ok(None);
        }
        let Some(next) = self.queued.pop_front() else { return Ok(None) };
        let bytes = next.blocking_take(self.session.gpu())?;
        Ok(Some(self.arrived(&bytes)))
    }

    /// What the generation took so far.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    fn try_next(&mut self) -> Result<Option<Option<Token>>> {
        self.queue_steps()?;
        self.session.gpu().poll()?;
        match self.queued.front() {
            _ if self.done => Ok(Some(None)),
            None => Ok(Some(None)),
            Some(next) if !next.is_ready() => Ok(None),
            Some(_) => {
                let bytes = self.queued.pop_front().expect("looked at").take()?;
                Ok(Some(Some(self.arrived(&bytes))))
            }
        }
    }
}

impl futures::Stream for Generation<'_> {
    type Item = Result<Token>;

    /// Never waits: where no step has finished, the task is woken within half a millisecond to look again.
    fn poll_next(self: Pin<&mut Self>, context: &mut Context) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        match this.try_next() {
            Ok(Some(token)) => Poll::Ready(token.map(Ok)),
            Ok(None) => {
                this.session.gpu().wake_soon(context.waker());
                Poll::Pending
            }
            Err(error) => Poll::Ready(Some(Err(error))),
        }
    }
}
