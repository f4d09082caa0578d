//! Steps on the device: submitting them, and going on with those that missed an expert.

use super::engine::{Ending, RECORD_OFFSET};
use super::missing::{Missing, is_lookup};
use super::state::State;
use super::{Budget, Error, Result, Session};
use crate::gpu::{Dispatch, Mark, Readback, View};
use crate::ops::Record;
use std::collections::VecDeque;
use std::task::Poll;

/// A step on its way: given to the device in parts, then waited for.
pub(super) struct Flight {
    pub key: (usize, Ending),
    /// Positions that are cached after it.
    pub positions: usize,
    /// Written before its first part, where it does not go on from the state of the step before.
    state: Option<State>,
    /// States are to be saved after it.
    keep: bool,
    /// Given so far, and up to where it may be given.
    pub at: Mark,
    pub until: usize,
    /// Once all of it is given.
    report: Option<Readback>,
    /// Where a step is given in parts, of each that is not seen to have ended, and that of one that halted.
    pub passing: VecDeque<Readback>,
    pub halted: Option<Vec<u8>>,
    /// The dispatch up to which the last of these parts goes.
    pub open: usize,
    /// The layer that missed experts last.
    from: Option<u32>,
    /// Those, once they are on their way.
    states: Option<Vec<Readback>>,
    pub missing: Option<Missing>,
    /// Parts given.
    pub submits: usize,
}

/// A checkpoint on its way into the cache.
pub(super) struct Back {
    position: usize,
    /// Of its states.
    written: usize,
}

/// How far a step was given.
pub(super) enum Given {
    Wholly,
    /// The budget is spent.
    Partly,
    /// Its experts are not there yet.
    Waits,
}

/// How a step stands that has come back.
pub(super) enum Landed {
    Done(State),
    /// It missed experts, and must be given again from there.
    Again,
}

impl Flight {
    /// Whether all of it is given.
    pub fn is_given(&self) -> bool {
        self.report.is_some() || self.halted.is_some()
    }

    /// Whether it has ended.
    pub fn is_ready(&self) -> bool {
        self.halted.is_some() || self.report.as_ref().is_some_and(Readback::is_ready)
    }

    /// The states of a step that has ended.
    pub fn take_states(&mut self) -> Option<Vec<Readback>> {
        self.states.take()
    }

    /// What was given did nothing, since a step before it had missed an expert.
    pub fn restart(&mut self) {
        (self.at, self.open, self.report, self.halted, self.states) = (Mark::default(), 0, None, None, None);
        self.passing.clear();
    }
}

impl Session {
    pub(super) fn write_state(&self, state: &State) -> Result<()> {
        Ok(self.gpu().write(&self.state, 0, bytemuck::bytes_of(state))?)
    }

    /// Makes ready for a prompt, which is checked: how many of its tokens are cached already, and the checkpoint that is to be
    /// brought back first, if they are so only in the keys and values.
    pub(super) fn begin(&mut self, prompt: &[u32]) -> Result<(usize, Option<Back>)> {
        let context = self.cache.positions;
        if prompt.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        if prompt.len() > context {
            return Err(Error::ContextOverflow { prompt: prompt.len(), context });
        }
        self.check_tokens(prompt)?;
        self.make_room(prompt.len())?;
        // Until the new keys and values are known to be there, only the common ones are.
        let (common, back) = self.history.resume(prompt);
        if !back && self.history.due(common, true) {
            // Nothing was lent for it: it counts to what is lent next.
            let states = self.read_states(common, f64::MAX)?;
            self.save(common, states);
        }
        self.gpu().write(&self.token_ids, 0, bytemuck::cast_slice(prompt))?;
        Ok((common, back.then_some(Back { position: common, written: 0 })))
    }

    /// How the next chunk of a prompt of `total` tokens is recorded, of which `at` are cached; the last chunk samples.
    fn chunk_key(&self, at: usize, total: usize) -> (usize, Ending) {
        let tokens = self.chunk().min(total - at);
        (tokens, if at + tokens == total { Ending::Sample } else { Ending::Nothing })
    }

    /// Records what a prompt of `total` tokens needs, of which `at` are cached.
    pub(super) fn record_prompt(&mut self, at: usize, total: usize) -> Result<()> {
        let last = at + (total - at - 1) / self.chunk() * self.chunk();
        for key in [self.chunk_key(at, total), self.chunk_key(last, total)] {
            self.record(key.0, key.1)?;
        }
        Ok(())
    }

    /// The step of the next chunk of a prompt of `total` tokens, of which `at` are cached. `state` is its state but for the
    /// position.
    pub(super) fn prefill(&mut self, at: usize, total: usize, state: &State) -> Result<Flight> {
        let key = self.chunk_key(at, total);
        let state = State { position: at as u32, clock: self.model().next_clock(), ..*state };
        let keep = self.history.due(at + key.0, at + key.0 == total);
        self.flight(key, at + key.0, Some(state), keep)
    }

    /// A decode step, whose token is the one sampled last; `positions` are cached after it.
    pub(super) fn decode(&mut self, positions: usize) -> Result<Flight> {
        let keep = self.history.due(positions, false);
        self.flight((1, Ending::Sample), positions, None, keep)
    }

    fn flight(&mut self, key: (usize, Ending), positions: usize, state: Option<State>, keep: bool) -> Result<Flight> {
        self.make_room(positions)?;
        self.record(key.0, key.1)?;
        self.history.reach(positions);
        let until = self.recordings[&key].recording.dispatches.len();
        let (at, report, states, missing) = (Mark::default(), None, None, None);
        let (passing, halted) = (VecDeque::new(), None);
        let (open, from) = (0, None);
        Ok(Flight {
            key,
            positions,
            state,
            keep,
            at,
            until,
            report,
            passing,
            halted,
            open,
            from,
            states,
            missing,
            submits: 0,
        })
    }

    /// Copies of the states after `positions` tokens, after what was submitted before.
    fn read_states(&mut self, positions: usize, budget: f64) -> Result<Vec<Readback>> {
        let states = self.cache.states(positions);
        let gpu = self.gpu().clone();
        let readbacks = gpu.read(&states.iter().collect::<Vec<&View>>())?;
        self.pace.copied(&gpu, states.iter().map(|view| view.size).sum(), budget)?;
        Ok(readbacks)
    }

    /// Writes the states of a checkpoint into the cache, as far as the budget allows; whether all are there. `wait`: until they
    /// have come to the host.
    pub(super) fn bring_back(&mut self, back: &mut Back, budget: Budget, wait: bool) -> Result<bool> {
        let gpu = self.gpu().clone();
        let views = self.cache.states(back.position);
        let Some(states) = self.history.states(back.position, &gpu, wait)? else { return Ok(false) };
        for (view, bytes) in views.iter().zip(states).skip(back.written) {
            if self.pace.room(budget.seconds()) == 0 {
                return Ok(false);
            }
            gpu.write(view, 0, bytes)?;
            self.pace.copied(&gpu, bytes.len() as u64, budget.seconds())?;
            back.written += 1;
        }
        self.history.brought_back(back.position);
        Ok(true)
    }

    /// Keeps the states after `positions` tokens as a checkpoint.
    pub(super) fn save(&mut self, positions: usize, states: Vec<Readback>) {
        let bytes = self.cache.states(positions).iter().map(|view| view.size).sum();
        self.history.save(positions, bytes, states);
    }

    /// Gives the device as much of a step as the budget allows. `wait`: for experts that are read.
    pub(super) fn give(&mut self, flight: &mut Flight, budget: Budget, wait: bool) -> Result<Given> {
        while !flight.is_given() {
            if self.model().weights_move() {
                let before = self.brought();
                let there = self.has_experts(flight, budget, wait)?;
                self.count_brought(before, budget)?;
                if !there {
                    return Ok(Given::Waits);
                }
            }
            if let Some(state) = flight.state.take() {
                self.write_state(&state)?;
            }
            self.fill_rope(flight.positions)?;
            if !self.give_parts(flight, budget, wait)? {
                return Ok(Given::Partly);
            }
        }
        Ok(Given::Wholly)
    }

    /// Sees what has ended on the device.
    pub(super) fn look(&mut self) -> Result<()> {
        let gpu = self.gpu().clone();
        gpu.poll()?;
        Ok(self.pace.look(&gpu)?)
    }

    /// Submits parts of a step as far as it may be given; false where the budget ends before.
    fn give_parts(&mut self, flight: &mut Flight, budget: Budget, wait: bool) -> Result<bool> {
        let (lent, budget, bound) = (budget, budget.seconds(), self.submit.as_secs_f64());
        let gpu = &self.model().gpu.clone();
        while flight.at < flight.until.into() && flight.halted.is_none() {
            let before = self.brought();
            let most = (!wait).then(|| self.pace.room(budget));
            let layer = self.layer_in(flight, most)?;
            self.count_brought(before, lent)?;
            let until = match layer {
                Poll::Ready(until) => until,
                Poll::Pending => return Ok(false),
            };
            if flight.halted.is_some() {
                break;
            }
            let recording = &self.recordings[&flight.key].recording;
            let range = flight.at..until.into();
            let Some(part) = self.pace.next(recording, range, flight.positions, budget, bound) else {
                return Ok(false);
            };
            let last = part.to.dispatch == recording.dispatches.len();
            let makes_room = part.to == until.into() && until < flight.until;
            let read: &[&View] = if last || makes_room { &[&self.report] } else { &[] };
            let mut read = self.pace.submit(gpu, recording, flight.at, part, budget, read)?;
            match makes_room {
                true => flight.passing.extend(read.pop()),
                false => flight.report = read.pop(),
            }
            flight.at = part.to;
            flight.submits += 1;
        }
        if flight.is_given() {
            flight.missing = None;
            flight.states = if flight.keep { Some(self.read_states(flight.positions, budget)?) } else { None };
            self.release()?;
        }
        Ok(true)
    }

    /// What a step says that has ended, or is waited for. One that missed experts is to be given again.
    pub(super) fn land(&mut self, flight: &mut Flight, wait: bool) -> Result<Landed> {
        let report = match (flight.halted.take(), flight.report.take()) {
            (Some(report), _) => report,
            (None, Some(report)) if wait => report.blocking_take(self.gpu())?,
            (None, report) => report.expect("a step lands once it is given").take()?,
        };
        flight.passing.clear();
        let state: State = bytemuck::pod_read_unaligned(&report[..size_of::<State>()]);
        let Some(record) = report.get(RECORD_OFFSET as usize..) else { return Ok(Landed::Done(state)) };
        let record: Record = bytemuck::pod_read_unaligned(&record[..size_of::<Record>()]);
        self.model().store().saw(state.clock, record.found.wrapping_sub(self.found));
        self.found = record.found;
        let dispatches = &self.recordings[&flight.key].recording.dispatches;
        let seen = |d: &&Dispatch| is_lookup(d) && (!state.missed() || d.layer < state.halt_layer);
        let lookups = dispatches.iter().filter(seen).filter(|d| flight.from.is_none_or(|from| d.layer > from)).count();
        self.misses.saw(lookups, state.missed());
        if !state.missed() {
            return Ok(Landed::Done(state));
        }
        (flight.from, flight.open) = (Some(state.halt_layer), 0);
        flight.until = flight.at.dispatch;
        flight.at = flight.until.into();
        flight.missing = Some(Missing { layer: state.halt_layer, record: Box::new(record), passes: None });
        Ok(Landed::Again)
    }

    /// Runs a step to its end, whatever it misses.
    pub(super) fn blocking_run(&mut self, key: (usize, Ending), positions: usize, state: State) -> Result<()> {
        let mut flight = self.flight(key, positions, Some(state), false)?;
        loop {
            self.give(&mut flight, Budget::unlimited(), true)?;
            if let Landed::Done(_) = self.land(&mut flight, true)? {
                return Ok(());
            }
        }
    }
}
