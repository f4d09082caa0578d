//! Steps of a conversation: what a prompt and a token need, checkpoints, and the way from device to device.

use super::flight::{Flight, Given, Landed};
use super::stage::{Ending, Key, Stage};
use super::state::State;
use super::{Budget, Error, Result, Session};
use crate::gpu::Readback;

/// What is to be done before a prompt's first step, as far as budgets allow.
pub(super) enum Before {
    /// A checkpoint is to be brought back into the cache; so many of its states are.
    Back { position: usize, written: usize },
    /// The states are to be kept; of each device those that are on their way.
    Keep { position: usize, copies: Vec<Vec<Readback>> },
}

impl Session {
    /// Makes ready for a prompt, which is checked: how many of its tokens are cached already, and what is to be done first. A
    /// checkpoint is to be brought back if they are so only in the keys and values.
    pub(super) fn begin(&mut self, prompt: &[u32]) -> Result<(usize, Option<Before>)> {
        let context = self.context();
        if prompt.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        if prompt.len() > context {
            return Err(Error::ContextOverflow { prompt: prompt.len(), context });
        }
        self.check_tokens(prompt)?;
        self.make_room(prompt.len(), true)?;
        // Until the new keys and values are known to be there, only the common ones are.
        let (common, back) = self.history.resume(prompt);
        let before = if back {
            Some(Before::Back { position: common, written: 0 })
        } else {
            let copies = self.stages.iter().map(|_| Vec::new()).collect();
            self.history.due(common, true).then_some(Before::Keep { position: common, copies })
        };
        self.stages.iter().try_for_each(|stage| stage.write_tokens(0, prompt))?;
        Ok((common, before))
    }

    /// Does what is to be done before a prompt's first step, as far as the budget allows; whether all is done. `wait`: until the
    /// states of a checkpoint have come to the host.
    pub(super) fn make_ready(&mut self, before: &mut Before, budget: Budget, wait: bool) -> Result<bool> {
        match before {
            Before::Back { position, written } => self.bring_back(*position, written, budget, wait),
            Before::Keep { position, copies } => {
                for (stage, copies) in self.stages.iter_mut().zip(&mut *copies) {
                    if !stage.save_states(*position, copies, budget)? {
                        return Ok(false);
                    }
                }
                let states = copies.drain(..).flatten().collect();
                self.save(*position, states);
                Ok(true)
            }
        }
    }

    /// How the next chunk of a prompt of `total` tokens is recorded, of which `at` are cached; the last chunk samples.
    fn chunk_key(&self, at: usize, total: usize) -> Key {
        let tokens = self.chunk().min(total - at);
        (tokens, if at + tokens == total { Ending::Sample } else { Ending::Nothing })
    }

    /// Records what a prompt of `total` tokens needs, of which `at` are cached.
    pub(super) fn record_prompt(&mut self, at: usize, total: usize) -> Result<()> {
        let last = at + (total - at - 1) / self.chunk() * self.chunk();
        for key in [self.chunk_key(at, total), self.chunk_key(last, total)] {
            self.record(key)?;
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

    /// There is room for it: whoever asks for it has made it, since only they know whether to wait.
    fn flight(&mut self, key: Key, positions: usize, state: Option<State>, keep: bool) -> Result<Flight> {
        self.record(key)?;
        self.history.reach(positions);
        let dispatches = self.stages[0].recording(key).dispatches.len();
        Ok(Flight::new(key, positions, state, keep, dispatches))
    }

    /// Writes the states of a checkpoint into the cache, as far as the budget allows; whether all are there.
    fn bring_back(&mut self, position: usize, written: &mut usize, budget: Budget, wait: bool) -> Result<bool> {
        let views = self.views(|cache| cache.states(position));
        let Some(states) = self.history.states(position, wait)? else { return Ok(false) };
        for ((stage, view), bytes) in views.iter().zip(states).skip(*written) {
            let stage = &mut self.stages[*stage];
            if stage.pace.fitting([view.size].into_iter(), budget.seconds()) == 0 {
                return Ok(false);
            }
            let gpu = stage.gpu().clone();
            gpu.write(view, 0, bytes)?;
            stage.pace.copied(&gpu, bytes.len() as u64, budget.seconds())?;
            *written += 1;
        }
        self.history.brought_back(position);
        Ok(true)
    }

    /// Keeps the states after `positions` tokens as a checkpoint.
    pub(super) fn save(&mut self, positions: usize, states: Vec<Readback>) {
        let bytes = self.views(|cache| cache.states(positions)).iter().map(|(_, view)| view.size).sum();
        self.history.save(positions, bytes, states);
    }

    /// Sees what has ended on the devices.
    pub(super) fn look(&mut self) -> Result<()> {
        self.poll()?;
        for stage in &mut self.stages {
            let gpu = stage.gpu().clone();
            stage.pace.look(&gpu)?;
        }
        Ok(())
    }

    /// Runs whatever callbacks of the devices are due.
    pub(super) fn poll(&self) -> Result<()> {
        Ok(self.stages.iter().try_for_each(|stage| stage.gpu().poll())?)
    }

    /// Lets other sessions use the stores of experts that come and go.
    pub(super) fn release(&self) -> Result<()> {
        self.stages.iter().try_for_each(Stage::release)
    }

    /// Gives the device that a step is on as much of it as the budget allows. `wait`: for experts that are read.
    pub(super) fn give(&mut self, flight: &mut Flight, budget: Budget, wait: bool) -> Result<Given> {
        self.stages[flight.stage].give(flight, budget, wait)
    }

    /// What a step says that has ended on its device, or is waited for. One whose next layers lie on another device goes on there;
    /// from where the last ones lie, the token that was picked goes back to where the embedding is.
    pub(super) fn land(&mut self, flight: &mut Flight, wait: bool) -> Result<Landed> {
        let landed = self.stages[flight.stage].land(flight, wait)?;
        let Landed::Done(state) = landed else { return Ok(landed) };
        if let (Some(next), 0) = (self.stages.get(flight.stage + 1), state.halt) {
            let dispatches = next.recording(flight.key).dispatches.len();
            let carried = flight.take_crossing(wait)?;
            flight.pass(state, carried, dispatches);
            return Ok(Landed::Passed);
        }
        if flight.key.1 == Ending::Sample {
            for stage in self.stages.iter().filter(|stage| !stage.is_last()) {
                stage.write_state(&state)?;
                stage.write_tokens(state.position as usize, &[state.last])?;
            }
        }
        Ok(landed)
    }

    /// Runs a step to its end, whatever it misses.
    pub(super) fn blocking_run(&mut self, key: Key, positions: usize, state: State) -> Result<()> {
        let mut flight = self.flight(key, positions, Some(state), false)?;
        loop {
            self.give(&mut flight, Budget::unlimited(), true)?;
            if let Landed::Done(_) = self.land(&mut flight, true)? {
                return Ok(());
            }
        }
    }
}
