//! A generation: steps queued ahead of the host, tokens collected as their steps finish.

use super::flight::{Flight, Landed};
use super::state::State;
use super::{Error, MAX_STOPS, Result, Sampling, Session, StopReason};
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
    /// Tokens that this time was spent on: not the first, nor those whose steps had ended when it was seen.
    pub decode_tokens: usize,
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
pub(super) const MOST_AHEAD: usize = 16;
const AHEAD_TIME: Duration = Duration::from_millis(50);
/// Tokens that the repetition penalty looks back.
const REPEAT_LAST: u32 = 64;

/// Tokens as they arrive: a [`futures::Stream`], or [`Generation::blocking_next`]. Dropping it stops; the session
/// keeps what was cached.
pub struct Generation<'s> {
    session: &'s mut Session,
    prompt: Vec<u32>,
    /// That of each chunk of the prompt, but for the position.
    state: State,
    /// Tokens of the prompt that are cached or on their way there.
    submitted: usize,
    /// Steps on their way, oldest first.
    queued: VecDeque<Flight>,
    /// The token seen last, which the next step caches.
    last: Option<u32>,
    /// Steps since the last that missed an expert.
    calm: usize,
    stats: Stats,
    start: Instant,
    first: Option<Instant>,
    /// Steps behind the first token that had ended when it was seen.
    early: usize,
    limit: usize,
    done: bool,
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
        let cached = self.begin(prompt)?;
        let dispatches_per_token = self.decode_recording().dispatches.len();
        let (prompt_tokens, cached_tokens) = (prompt.len(), cached);
        let mut generation = Generation {
            session: self,
            prompt: prompt.to_vec(),
            state,
            submitted: cached,
            queued: VecDeque::new(),
            last: None,
            calm: 0,
            stats: Stats { prompt_tokens, cached_tokens, dispatches_per_token, ..Stats::default() },
            start,
            first: None,
            early: 0,
            limit,
            done: limit == 0,
        };
        generation.queue()?;
        Ok(generation)
    }
}

impl Generation<'_> {
    /// Steps to have in flight behind the one that comes next.
    fn ahead(&self) -> usize {
        let seen = self.stats.generated_tokens;
        let ahead = match (self.session.run_ahead, self.first) {
            (Some(steps), _) => steps,
            (None, Some(first)) if seen > 1 => {
                let step = first.elapsed() / (seen as u32 - 1);
                let fit = AHEAD_TIME.as_nanos() / step.as_nanos().max(1);
                (fit as usize).clamp(LEAST_AHEAD, MOST_AHEAD)
            }
            _ => LEAST_AHEAD,
        };
        // What is queued behind a miss is queued in vain.
        if self.session.model().experts_move() { ahead.min(self.calm) } else { ahead }
    }

    fn queue(&mut self) -> Result<()> {
        let total = self.prompt.len();
        // A chunk writes the state, which would clear a miss of the chunk before it.
        let alone = self.session.model().experts_move();
        while !self.done && self.submitted < total && (!alone || self.queued.is_empty()) {
            let (flight, submits) = self.session.prefill(self.submitted, total, &self.state)?;
            self.submitted = flight.positions;
            self.stats.prefill_submits += submits;
            self.queued.push_back(flight);
        }
        while !self.done && self.submitted == total {
            let waiting = self.queued.iter().filter(|flight| flight.positions >= total).count();
            let steps = self.stats.generated_tokens + waiting;
            if waiting > self.ahead() || steps >= self.limit || total + steps > self.session.context() {
                break;
            }
            let before = self.session.gpu().encode_time();
            self.session.fill_rope(total + steps)?;
            let (flight, submits) = self.session.decode(total + steps)?;
            self.stats.decode_host += self.session.gpu().encode_time() - before;
            self.stats.decode_steps += 1;
            self.stats.decode_submits += submits;
            self.queued.push_back(flight);
        }
        Ok(())
    }

    /// What the oldest step says: a token, unless it was within the prompt or goes on.
    fn landed(&mut self, landed: Landed) -> Result<Option<Token>> {
        let state = match landed {
            Landed::Done(state) => state,
            Landed::Again => {
                // What was queued behind the miss did nothing.
                self.calm = 0;
                self.queued.iter_mut().skip(1).try_for_each(|flight| self.session.relaunch(flight))?;
                return Ok(None);
            }
        };
        let mut flight = self.queued.pop_front().expect("a step has landed");
        self.calm += 1;
        let total = self.prompt.len();
        if flight.positions <= total {
            let known = self.session.history().len();
            self.session.history.extend(self.prompt[known..flight.positions].iter().copied());
        }
        if flight.positions >= total {
            self.session.history.extend(self.last.replace(state.last));
        }
        if let Some(states) = flight.take_states() {
            self.session.save(flight.positions, states);
        }
        if flight.positions < total {
            return Ok(None);
        }
        let now = Instant::now();
        if self.first.is_none() {
            self.session.gpu().poll()?;
            self.early = self.queued.iter().filter(|flight| flight.is_ready()).count();
        }
        let first = *self.first.get_or_insert(now);
        self.stats.prefill = first - self.start;
        self.stats.decode = now - first;
        self.stats.generated_tokens += 1;
        self.stats.decode_tokens = (self.stats.generated_tokens - 1).saturating_sub(self.early);
        let stop = state.stop_reason();
        if stop.is_some() {
            // Steps queued behind the halt are no-ops; their states repeat this one.
            self.done = true;
            self.queued.clear();
            self.session.history.settle();
        }
        Ok(Some(Token { id: state.last, stop }))
    }

    /// The next token; waits for its step. `None` after the last.
    ///
    /// # Errors
    /// A lost device, or experts that cannot be read.
    pub fn blocking_next(&mut self) -> Result<Option<Token>> {
        match self.next_by(|session, flight| session.blocking_land(flight).map(Poll::Ready))? {
            Poll::Ready(token) => Ok(token),
            Poll::Pending => unreachable!("a step that is waited for has landed"),
        }
    }

    /// What the generation took so far.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// The next token, if its step has ended.
    fn try_next(&mut self) -> Result<Poll<Option<Token>>> {
        self.next_by(|session, flight| {
            session.gpu().poll()?;
            if flight.is_ready() { session.land(flight).map(Poll::Ready) } else { Ok(Poll::Pending) }
        })
    }

    /// The next token by a way to land steps. Nothing follows an error.
    fn next_by(
        &mut self,
        land: impl Fn(&mut Session, &mut Flight) -> Result<Poll<Landed>>,
    ) -> Result<Poll<Option<Token>>> {
        let next = self.land_until_a_token(land);
        self.done |= next.is_err();
        next
    }

    fn land_until_a_token(
        &mut self,
        land: impl Fn(&mut Session, &mut Flight) -> Result<Poll<Landed>>,
    ) -> Result<Poll<Option<Token>>> {
        loop {
            self.queue()?;
            let Some(flight) = self.queued.front_mut().filter(|_| !self.done) else { return Ok(Poll::Ready(None)) };
            let Poll::Ready(landed) = land(self.session, flight)? else { return Ok(Poll::Pending) };
            if let Some(token) = self.landed(landed)? {
                return Ok(Poll::Ready(Some(token)));
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
            Ok(Poll::Ready(token)) => Poll::Ready(token.map(Ok)),
            Ok(Poll::Pending) => {
                this.session.gpu().wake_soon(context.waker());
                Poll::Pending
            }
            Err(error) => Poll::Ready(Some(Err(error))),
        }
    }
}
