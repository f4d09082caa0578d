//! Weights that a step waits for: how far it can be given, and how it goes on where it missed experts.

use super::flight::Flight;
use super::stage::{Ending, Stage};
use super::state::State;
use super::{Budget, Error, Result};
use crate::gpu::{Dispatch, Recording};
use crate::ops::Record;
use std::collections::VecDeque;
use std::task::Poll;

/// Experts that a step lacks.
pub(super) struct Missing {
    pub layer: u32,
    pub record: Box<Record>,
    /// What is still to be brought and run, once the store is held: where the experts are more than the layer's slots, they
    /// run in passes, each with those that it has. Every (token, rank) has a row of its own, and the rows are summed after
    /// the last pass.
    pub passes: Option<VecDeque<Vec<u32>>>,
}

pub(super) fn is_lookup(dispatch: &Dispatch) -> bool {
    dispatch.kernel.spec.shader == "expert_lookup"
}

/// The first dispatch of a layer by its shader, from `from` on.
fn find(recording: &Recording, from: usize, shader: &str, layer: u32) -> Option<usize> {
    let wanted = |d: &Dispatch| d.kernel.spec.shader == shader && d.layer == layer;
    recording.dispatches[from..].iter().position(wanted).map(|at| from + at)
}

impl Stage {
    /// Bytes that the store has brought so far.
    pub(super) fn brought(&self) -> u64 {
        self.part().store_stats().map_or(0, |stats| stats.bytes + stats.streamed)
    }

    /// What was brought since is work on the queue.
    pub(super) fn count_brought(&mut self, before: u64, budget: Budget) -> Result<()> {
        let (bytes, gpu) = (self.brought() - before, self.gpu().clone());
        Ok(self.pace.copied(&gpu, bytes, budget.seconds())?)
    }

    /// Lookups of a recording that are worth giving in one part, of which two are on their way; 0 where one is.
    pub(super) fn lookups_in_part(&self, recording: &Recording) -> usize {
        let dispatches = &recording.dispatches;
        let lookup = |from: usize| dispatches[from..].iter().position(is_lookup).map(|at| from + at);
        let Some(first) = lookup(0).filter(|_| self.options.run_ahead.is_none()) else {
            return usize::MAX;
        };
        // What is done for one lookup: for the others it is about the same.
        let each = &dispatches[first..lookup(first + 1).unwrap_or(dispatches.len())];
        let seconds = each.iter().map(|dispatch| self.pace.estimate(dispatch, 0)).map(|e| e.launch + e.work).sum();
        self.ahead.lookups(each.len(), seconds)
    }

    /// Has the device time a decode step that does nothing, since the halt word is set; whether all is known.
    pub(super) fn measure_ahead(&mut self) -> Result<bool> {
        let gpu = self.gpu().clone();
        let step = &self.recordings[&self.key((1, Ending::Sample))].recording;
        self.ahead.measure(&gpu, step)
    }

    /// Up to which dispatch a step may be given: one that is to be begun only, up to its first lookup.
    pub(super) fn until(&self, flight: &Flight) -> usize {
        let lookup = || self.recording(flight.key).dispatches.iter().position(is_lookup);
        flight.until.min(if flight.begins { lookup().unwrap_or(0) } else { usize::MAX })
    }

    /// Up to which dispatch a step can be given now: to behind a lookup, in parts of as many as are worth it, of which two
    /// are on their way, or one; and no dense layer that passes through and is not there. Such a layer is brought; it takes
    /// the place of the last but one. A step that is seen to have halted is not given further. As much as `most` bytes at once, or
    /// waits.
    pub(super) fn layer_in(&self, flight: &mut Flight, most: Option<u64>) -> Result<Poll<usize>> {
        if !self.part().weights_move() {
            return Ok(Poll::Ready(flight.until));
        }
        let mut store = self.part().store();
        let recording = self.recording(flight.key);
        let dispatches = &recording.dispatches;
        let layer = dispatches[flight.at.dispatch].layer;
        if store.lacks(layer) || flight.at >= flight.open.into() {
            let part = self.lookups_in_part(recording);
            while flight.passing.len() > usize::from(part > 0) {
                if most.is_some() && !flight.passing[0].is_ready() {
                    return Ok(Poll::Pending);
                }
                let report = flight.passing.pop_front().expect("there is one");
                let report = if most.is_some() { report.take()? } else { report.blocking_take()? };
                if bytemuck::pod_read_unaligned::<State>(&report[..size_of::<State>()]).halt != 0 {
                    flight.passing.clear();
                    flight.halted = Some(report);
                    return Ok(Poll::Ready(flight.until));
                }
            }
            if store.lacks(layer) && store.bring_layer(layer, most)?.is_pending() {
                return Ok(Poll::Pending);
            }
            let mut lookups = part.max(1);
            let ends = |d: &Dispatch| {
                let ends = lookups == 0 || (d.layer != layer && store.lacks(d.layer));
                lookups -= usize::from(is_lookup(d) && !ends);
                ends
            };
            let rest = &dispatches[flight.at.dispatch..];
            flight.open = rest.iter().position(ends).map_or(dispatches.len(), |more| flight.at.dispatch + more);
        }
        Ok(Poll::Ready(flight.open.min(flight.until)))
    }

    /// Whether a step can be given on: that no other session holds the store, and that what it missed is there.
    pub(super) fn has_experts(&self, flight: &mut Flight, budget: Budget, wait: bool) -> Result<bool> {
        let mut store = self.part().store();
        if !store.hold(self.id) {
            return if wait { Err(Error::ExpertsHeld) } else { Ok(false) };
        }
        let Some(missing) = flight.missing.as_mut().filter(|_| flight.at == flight.until.into()) else {
            return Ok(true);
        };
        let Missing { layer, record, passes } = missing;
        let passes = passes.get_or_insert_with(|| store.passes(*layer, &record.needed().collect::<Vec<_>>()).into());
        let most = (!wait).then(|| self.pace.room(budget.seconds()));
        let pass = passes.front().expect("a pass that is still to run");
        if store.bring(*layer, pass, &record.stamps, most)?.is_pending() {
            return Ok(false);
        }
        passes.pop_front();
        self.clear_halt()?;
        let recording = self.recording(flight.key);
        let lookup = find(recording, 0, "expert_lookup", *layer).expect("a lookup halted");
        flight.at = (lookup + 1).into();
        flight.until = match passes.is_empty() {
            true => recording.dispatches.len(),
            false => find(recording, lookup, "expert_combine", *layer).expect("many tokens have rows of their own"),
        };
        Ok(true)
    }

    /// Lets other sessions use the store of experts that come and go.
    pub(super) fn release(&self) -> Result<()> {
        if self.part().weights_move() { Ok(self.part().store().release(self.id)?) } else { Ok(()) }
    }
}
