//! A step on a device: submitting it, and going on where it missed an expert.

use super::missing::{Missing, is_lookup};
use super::stage::{Key, RECORD_OFFSET, Recorded, Stage};
use super::state::State;
use super::{Budget, Result};
use crate::gpu::{self, Dispatch, Mark, Readback, View};
use crate::ops::Record;
use std::collections::VecDeque;
use std::task::Poll;

/// A step on its way: given to the device in parts, then waited for.
pub(super) struct Flight {
    pub key: Key,
    /// The device that it is on, in the order of layers.
    pub stage: usize,
    /// Positions that are cached after it.
    pub positions: usize,
    /// Written before its first part, where it does not go on from the state of the step before.
    state: Option<State>,
    /// What the layers before have handed on, until it is written.
    carried: Vec<Vec<u8>>,
    /// States are to be saved after it.
    keep: bool,
    /// Given only as far as no lookup has run: it needs no hold of the store then, however long nobody goes on.
    pub begins: bool,
    /// Given so far, and up to where it may be given.
    pub at: Mark,
    pub until: usize,
    /// Once all of it is given.
    report: Option<Readback>,
    /// And what its last layer hands on, where the next lies on another device.
    crossing: Vec<Readback>,
    /// Where a step is given in parts, of each that is not seen to have ended, and that of one that halted.
    pub passing: VecDeque<Readback>,
    pub halted: Option<Vec<u8>>,
    /// The dispatch up to which the last of these parts goes.
    pub open: usize,
    /// The layer that missed experts last.
    from: Option<u32>,
    /// Those of each device, as far as they are on their way, and whether all are of the one that it is on.
    states: Vec<Vec<Readback>>,
    saved: bool,
    pub missing: Option<Missing>,
    /// Parts given.
    pub submits: usize,
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
    /// It is to be given on, on the next device.
    Passed,
    /// It is to be given on, behind what it missed.
    Again,
}

impl Flight {
    /// On the first device, where it takes so many dispatches.
    pub fn new(key: Key, positions: usize, state: Option<State>, keep: bool, dispatches: usize) -> Flight {
        Flight {
            key,
            stage: 0,
            positions,
            state,
            carried: Vec::new(),
            keep,
            begins: false,
            at: Mark::default(),
            until: dispatches,
            report: None,
            crossing: Vec::new(),
            passing: VecDeque::new(),
            halted: None,
            open: 0,
            from: None,
            states: vec![Vec::new()],
            saved: !keep,
            missing: None,
            submits: 0,
        }
    }

    /// Whether all of it is given, and where states are to be saved, their copies.
    pub fn is_given(&self) -> bool {
        self.halted.is_some() || (self.report.is_some() && self.saved)
    }

    /// Whether it has ended.
    pub fn is_ready(&self) -> bool {
        let ended = |report: &Readback| report.is_ready() && self.crossing.iter().all(Readback::is_ready);
        self.halted.is_some() || (self.saved && self.report.as_ref().is_some_and(ended))
    }

    /// States that were copied are not those after it.
    fn save_again(&mut self) {
        self.states.truncate(self.stage);
        self.states.push(Vec::new());
        self.saved = !self.keep;
    }

    /// The states of a step that has ended.
    pub fn take_states(&mut self) -> Option<Vec<Readback>> {
        self.keep.then(|| self.states.drain(..).flatten().collect())
    }

    /// What was given did nothing, since a step before it had missed an expert.
    pub fn restart(&mut self) {
        (self.at, self.open, self.report, self.halted) = (Mark::default(), 0, None, None);
        self.passing.clear();
        self.save_again();
    }

    /// What its last layer hands on, once it has ended there.
    ///
    /// # Errors
    /// A lost device.
    pub fn take_crossing(&mut self, wait: bool) -> Result<Vec<Vec<u8>>> {
        let take = |read: Readback| if wait { read.blocking_take() } else { read.take() };
        Ok(self.crossing.drain(..).map(take).collect::<gpu::Result<_>>()?)
    }

    /// Goes on on the next device, in `dispatches` dispatches, from the state and from what the layers before have handed on.
    pub fn pass(&mut self, state: State, carried: Vec<Vec<u8>>, dispatches: usize) {
        (self.stage, self.state, self.carried) = (self.stage + 1, Some(state), carried);
        (self.at, self.until, self.open, self.from) = (Mark::default(), dispatches, 0, None);
        self.save_again();
    }
}

impl Stage {
    /// Copies states after `positions` tokens, after what was submitted before, as many as the budget allows; whether `copies`
    /// are all of them.
    pub(super) fn save_states(&mut self, positions: usize, copies: &mut Vec<Readback>, budget: Budget) -> Result<bool> {
        let (budget, gpu) = (budget.seconds(), self.gpu().clone());
        let states = self.cache.states(positions);
        while copies.len() < states.len() {
            let fitting = self.pace.fitting(states[copies.len()..].iter().map(|view| view.size), budget);
            if fitting == 0 {
                return Ok(false);
            }
            let views: Vec<&View> = states[copies.len()..][..fitting].iter().collect();
            copies.extend(gpu.read(&views)?);
            self.pace.copied(&gpu, views.iter().map(|view| view.size).sum(), budget)?;
        }
        Ok(true)
    }

    /// Gives the device as much of a step as the budget allows. `wait`: for experts that are read.
    pub(super) fn give(&mut self, flight: &mut Flight, budget: Budget, wait: bool) -> Result<Given> {
        while !flight.is_given() {
            if self.part().weights_move() && flight.report.is_none() && !flight.begins {
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
            self.take_over(flight, budget)?;
            self.fill_rope(flight.positions)?;
            if !self.give_parts(flight, budget, wait)? {
                return Ok(Given::Partly);
            }
            if flight.begins {
                return Ok(Given::Waits);
            }
        }
        Ok(Given::Wholly)
    }

    /// Writes what the layers before have handed on.
    fn take_over(&mut self, flight: &mut Flight, budget: Budget) -> Result<()> {
        let gpu = self.gpu().clone();
        for (bytes, view) in flight.carried.drain(..).zip(&self.recordings[&self.key(flight.key)].crossing) {
            gpu.write(view, 0, &bytes)?;
            self.pace.copied(&gpu, bytes.len() as u64, budget.seconds())?;
        }
        Ok(())
    }

    /// Submits parts of a step as far as it may be given; false where the budget ends before.
    fn give_parts(&mut self, flight: &mut Flight, budget: Budget, wait: bool) -> Result<bool> {
        let (lent, budget, bound) = (budget, budget.seconds(), self.submit.as_secs_f64());
        let gpu = &self.gpu().clone();
        let until = self.until(flight);
        while flight.at < until.into() && flight.halted.is_none() {
            let before = self.brought();
            let most = (!wait).then(|| self.pace.room(budget));
            let layer = self.layer_in(flight, most)?;
            self.count_brought(before, lent)?;
            let open = match layer {
                Poll::Ready(open) => open.min(until),
                Poll::Pending => return Ok(false),
            };
            if flight.halted.is_some() {
                break;
            }
            let Recorded { recording, crossing, .. } = &self.recordings[&self.key(flight.key)];
            let range = flight.at..open.into();
            let Some(part) = self.pace.next(recording, range, flight.positions, budget, bound) else {
                return Ok(false);
            };
            let last = part.to.dispatch == recording.dispatches.len();
            let makes_room = part.to == open.into() && open < until;
            let mut read: Vec<&View> = if last || makes_room { vec![&self.report] } else { vec![] };
            read.extend(crossing.iter().filter(|_| last && !self.is_last()));
            let mut read = self.pace.submit(gpu, recording, flight.at, part, budget, &read)?.into_iter();
            match makes_room {
                true => flight.passing.extend(read.next()),
                false => (flight.report, flight.crossing) = (read.next(), read.collect()),
            }
            flight.at = part.to;
            flight.submits += 1;
        }
        // Else it goes on with the next pass of experts.
        if flight.report.is_some() || flight.halted.is_some() {
            flight.missing = None;
            self.release()?;
        }
        if flight.report.is_some() && !flight.saved {
            let copies = flight.states.last_mut().expect("those of this device");
            flight.saved = self.save_states(flight.positions, copies, lent)?;
            return Ok(flight.saved);
        }
        Ok(true)
    }

    /// What a step says that has ended, or is waited for. One that missed experts is to be given again.
    pub(super) fn land(&mut self, flight: &mut Flight, wait: bool) -> Result<Landed> {
        let report = match (flight.halted.take(), flight.report.take()) {
            (Some(report), _) => report,
            (None, Some(report)) if wait => report.blocking_take()?,
            (None, report) => report.expect("a step lands once it is given").take()?,
        };
        flight.passing.clear();
        let state: State = bytemuck::pod_read_unaligned(&report[..size_of::<State>()]);
        let Some(record) = report.get(RECORD_OFFSET as usize..) else { return Ok(Landed::Done(state)) };
        let record: Record = bytemuck::pod_read_unaligned(&record[..size_of::<Record>()]);
        self.part().store().saw(state.clock, record.found.wrapping_sub(self.found));
        self.found = record.found;
        let dispatches = &self.recording(flight.key).dispatches;
        let seen = |d: &&Dispatch| is_lookup(d) && (!state.missed() || d.layer < state.halt_layer);
        let lookups = dispatches.iter().filter(seen).filter(|d| flight.from.is_none_or(|from| d.layer > from)).count();
        self.ahead.saw(lookups, state.missed());
        if !state.missed() {
            return Ok(Landed::Done(state));
        }
        (flight.from, flight.open) = (Some(state.halt_layer), 0);
        flight.until = flight.at.dispatch;
        flight.at = flight.until.into();
        flight.save_again();
        flight.missing = Some(Missing { layer: state.halt_layer, record: Box::new(record), passes: None });
        Ok(Landed::Again)
    }
}
