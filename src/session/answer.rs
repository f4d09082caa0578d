//! An answer: steps given to the device ahead of the host, tokens collected as their steps end.

use super::flight::{Flight, Given, Landed};
use super::stage::Ending;
use super::state::State;
use super::steps::Before;
use super::{Budget, Error, MAX_STOPS, Result, Sampling, Session, StopReason};
use crate::clock::{self, Instant};
use std::collections::VecDeque;
use std::task::Poll;
use std::time::Duration;

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
    /// Of the prompt, those that are cached by now.
    pub prefilled_tokens: usize,
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

/// An answer on its way.
pub(super) struct Answer {
    prompt: Vec<u32>,
    /// That of each chunk of the prompt, but for the position.
    state: State,
    /// Before the first step.
    before: Option<Before>,
    /// Tokens of the prompt that are cached or on their way there.
    planned: usize,
    /// Steps on their way, oldest first; the last may be given in part.
    queued: VecDeque<Flight>,
    /// Tokens that nobody has taken yet.
    arrived: VecDeque<Token>,
    /// The token seen last, which the next step caches.
    last: Option<u32>,
    stats: Stats,
    start: Instant,
    first: Option<Instant>,
    /// Steps behind the first token that had ended when it was seen.
    early: usize,
    limit: usize,
    /// Why it ended early, until somebody is told.
    failed: Option<Error>,
    done: bool,
}

impl Session {
    /// Begins to answer `prompt` (the whole conversation: what is cached of it is not computed again) with at most `limit`
    /// tokens, until one of `stops`, in place of the answer before. [`Session::advance`] gives the device its steps. What
    /// the prompt's steps need is recorded here.
    ///
    /// # Errors
    /// An empty prompt, one longer than the context, token ids out of range, bad sampling values.
    pub fn ask(&mut self, prompt: &[u32], sampling: &Sampling, stops: &[u32], limit: usize) -> Result<()> {
        sampling.check()?;
        if stops.len() > MAX_STOPS {
            return Err(Error::TooManyStops { count: stops.len() });
        }
        self.stop();
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
        let start = clock::now();
        // There is one, unless the device failed while the cache grew.
        self.record((1, Ending::Sample))?;
        let (cached_tokens, before) = self.begin(prompt)?;
        self.record_prompt(cached_tokens, prompt.len())?;
        let stats = Stats {
            prompt_tokens: prompt.len(),
            cached_tokens,
            prefilled_tokens: cached_tokens,
            dispatches_per_token: self.decode_recordings().map(|recording| recording.dispatches.len()).sum(),
            ..Stats::default()
        };
        self.answer = Some(Answer {
            prompt: prompt.to_vec(),
            state,
            before,
            planned: cached_tokens,
            queued: VecDeque::new(),
            arrived: VecDeque::new(),
            last: None,
            stats,
            start,
            first: None,
            early: 0,
            limit,
            failed: None,
            done: limit == 0,
        });
        Ok(())
    }

    /// Once a frame, after the app's own submit: takes the tokens that have arrived since, and gives the device more of the
    /// answer's steps. What was given and has not been seen to end stays within the budget. It never waits, reads no file
    /// and compiles no kernel; not to call it for a while is a pause.
    ///
    /// # Errors
    /// A lost device, or experts that cannot be read. The answer ends there.
    pub fn advance(&mut self, budget: Budget) -> Result<Vec<Token>> {
        let looked = self.look();
        let Some(mut answer) = self.answer.take() else { return looked.map(|()| Vec::new()) };
        let gone_on = looked.and_then(|()| if answer.done { Ok(()) } else { answer.go_on(self, budget) });
        let failed = answer.failed.take();
        answer.failed = answer.or_end(self, gone_on).err().or(failed);
        let tokens: Vec<Token> = answer.arrived.drain(..).collect();
        let failed = if tokens.is_empty() { answer.failed.take() } else { None };
        self.answer = Some(answer);
        failed.map_or(Ok(tokens), Err)
    }

    /// Whether an answer is on its way, or tokens or an error of it that nobody has taken.
    pub fn is_answering(&self) -> bool {
        self.answer.as_ref().is_some_and(|answer| !answer.done || !answer.arrived.is_empty() || answer.failed.is_some())
    }

    /// Ends the answer. What was given to the device runs to its end; the session keeps what was cached.
    pub fn stop(&mut self) {
        self.answer = None;
        // Tables that cannot be written are those of a lost device: whoever uses it next is told.
        let _ = self.release();
    }

    /// What the answer took so far.
    pub fn stats(&self) -> Stats {
        self.answer.as_ref().map_or_else(Stats::default, |answer| answer.stats)
    }

    /// Runs a part of the answer, which ends with an error.
    pub(super) fn with_answer<T: Default>(
        &mut self,
        run: impl FnOnce(&mut Answer, &mut Session) -> Result<T>,
    ) -> Result<T> {
        let Some(mut answer) = self.answer.take() else { return Ok(T::default()) };
        let result = run(&mut answer, self);
        let result = answer.or_end(self, result);
        self.answer = Some(answer);
        result
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.stop();
        self.stages.iter().for_each(|stage| stage.gpu().drop_spares());
    }
}

impl Answer {
    /// Steps to have in flight behind the one that comes next, and whether the last of them is to be begun only.
    fn ahead(&self, session: &Session) -> (usize, bool) {
        let seen = self.stats.generated_tokens;
        let ahead = match (session.options.run_ahead, self.first) {
            (Some(steps), _) => steps,
            (None, Some(first)) if seen > 1 => {
                let step = first.elapsed() / (seen as u32 - 1);
                let fit = AHEAD_TIME.as_nanos() / step.as_nanos().max(1);
                (fit as usize).clamp(LEAST_AHEAD, MOST_AHEAD)
            }
            _ => LEAST_AHEAD,
        };
        // Layers that pass through do so for one step after the other; and a token that is picked on another device is not known.
        if session.model().layers_stream() || session.is_split() {
            return (0, false);
        }
        match session.steps_ahead() {
            (0, begins) => (ahead.min(usize::from(begins)), begins),
            (steps, _) => (ahead.min(steps), false),
        }
    }

    /// The step that comes next, if one is to be queued. `wait`: for memory that the cache grows into.
    fn plan(&mut self, session: &mut Session, wait: bool) -> Result<Option<Flight>> {
        let total = self.prompt.len();
        if self.planned < total {
            // A chunk writes the state, which would clear a miss of the chunk before it. Of several devices each has one.
            let most = match session.model().weights_move() {
                true => 1,
                false if session.is_split() => session.stages.len(),
                false => usize::MAX,
            };
            if self.queued.len() >= most {
                return Ok(None);
            }
            let flight = session.prefill(self.planned, total, &self.state)?;
            self.planned = flight.positions;
            return Ok(Some(flight));
        }
        let waiting = self.queued.iter().filter(|flight| flight.positions >= total).count();
        let steps = self.stats.generated_tokens + waiting;
        let (ahead, begins) = self.ahead(session);
        if waiting > ahead || steps >= self.limit || total + steps > session.context() {
            return Ok(None);
        }
        // What is on its way holds the buffers that are to be copied, so it ends first.
        let lacks_room = total + steps > session.room();
        if lacks_room && (!self.queued.is_empty() || !session.make_room(total + steps, wait)?) {
            return Ok(None);
        }
        self.stats.decode_steps += 1;
        let mut flight = session.decode(total + steps)?;
        flight.begins = begins && waiting > 0;
        Ok(Some(flight))
    }

    /// Gives the device steps, as far as the budget goes.
    pub(super) fn give(&mut self, session: &mut Session, budget: Budget, wait: bool) -> Result<()> {
        while !self.done {
            if let Some(before) = &mut self.before {
                if !session.make_ready(before, budget, wait)? {
                    break;
                }
                self.before = None;
            }
            if self.queued.iter().all(Flight::is_given) {
                let Some(flight) = self.plan(session, wait)? else { break };
                self.queued.push_back(flight);
            }
            // Nothing is before the first one.
            self.queued[0].begins = false;
            let flight = self.queued.iter_mut().find(|flight| !flight.is_given()).expect("one is not given yet");
            let (submits, encoded) = (flight.submits, session.encode_time());
            let given = session.give(flight, budget, wait)?;
            let submits = flight.submits - submits;
            if flight.positions <= self.prompt.len() {
                self.stats.prefill_submits += submits;
            } else {
                self.stats.decode_submits += submits;
                self.stats.decode_host += session.encode_time() - encoded;
            }
            if !matches!(given, Given::Wholly) {
                break;
            }
        }
        Ok(())
    }

    /// Takes what has come back, and gives more.
    fn go_on(&mut self, session: &mut Session, budget: Budget) -> Result<()> {
        while let Some(flight) = self.queued.front_mut().filter(|flight| flight.is_ready()) {
            let landed = session.land(flight, false)?;
            self.landed(session, landed)?;
        }
        self.give(session, budget, false)
    }

    /// The next token: of a step that is waited for, or has ended.
    pub(super) fn next(&mut self, session: &mut Session, wait: bool) -> Result<Poll<Option<Token>>> {
        loop {
            if let Some(token) = self.arrived.pop_front() {
                return Ok(Poll::Ready(Some(token)));
            }
            self.give(session, Budget::unlimited(), wait)?;
            let Some(flight) = self.queued.front_mut().filter(|_| !self.done) else {
                session.poll()?;
                let goes_on = !self.done && (self.before.is_some() || session.lacks_memory());
                return Ok(if goes_on { Poll::Pending } else { Poll::Ready(None) });
            };
            if !wait {
                session.poll()?;
                if !flight.is_ready() {
                    return Ok(Poll::Pending);
                }
            }
            let landed = session.land(flight, wait)?;
            self.landed(session, landed)?;
        }
    }

    /// Nothing follows an error.
    fn or_end<T>(&mut self, session: &Session, result: Result<T>) -> Result<T> {
        if result.is_err() {
            self.done = true;
            self.queued.clear();
            let _ = session.release();
        }
        result
    }

    /// Takes in what the oldest step says: a token, unless it was within the prompt or goes on.
    fn landed(&mut self, session: &mut Session, landed: Landed) -> Result<()> {
        let state = match landed {
            Landed::Done(state) => state,
            Landed::Passed => return Ok(()),
            Landed::Again => {
                self.queued.iter_mut().skip(1).for_each(Flight::restart);
                return Ok(());
            }
        };
        let mut flight = self.queued.pop_front().expect("a step has landed");
        let total = self.prompt.len();
        if flight.positions <= total {
            let known = session.history().len();
            session.history.extend(self.prompt[known..flight.positions].iter().copied());
            self.stats.prefilled_tokens = flight.positions;
        }
        if flight.positions >= total {
            session.history.extend(self.last.replace(state.last));
        }
        if let Some(states) = flight.take_states() {
            session.save(flight.positions, states);
        }
        if flight.positions < total {
            return Ok(());
        }
        let now = clock::now();
        if self.first.is_none() {
            session.poll()?;
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
            session.release()?;
            session.history.settle();
        }
        self.arrived.push_back(Token { id: state.last, stop });
        Ok(())
    }
}
