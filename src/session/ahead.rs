//! How far the host runs ahead where experts come and go: what is queued behind a lookup that misses is queued in vain, what is not
//! queued costs a round trip.

use super::Result;
use crate::clock::{self, Instant};
use crate::gpu::{Gpu, Recording, Timed};

/// What decides it: how often lookups miss, and what is measured once on the device.
pub(super) struct Ahead {
    /// Of lookups, how many miss: a running mean over about the last 32.
    rate: f64,
    /// Seconds of a dispatch behind a halt: it tests the halt word in each of its workgroups.
    idle: f64,
    /// Seconds from the end of what was queued to the start of what was not: a report that is read, and a submit.
    round_trip: f64,
    /// What is being timed, of so many dispatches.
    probe: Option<(Timed, usize, Instant)>,
    probed: usize,
}

const WEIGHT: f64 = 1.0 / 32.0;
/// Until it is measured.
const ROUND_TRIP: f64 = 200e-6;
/// Whole steps and single dispatches, in turn. The shortest of each kind counts: what is longer has waited for something else.
const PROBES: usize = 6;

impl Ahead {
    /// Before anything is known but what a dispatch is taken to cost at least.
    pub fn new(dispatch_seconds: f64) -> Ahead {
        Ahead { rate: 0.5, idle: dispatch_seconds, round_trip: ROUND_TRIP, probe: None, probed: 0 }
    }

    /// Has the device time a step, which must stand behind a halt, and takes in what has been timed; to be called as often as the
    /// host will look at reports, until all is known that the device can tell.
    ///
    /// # Errors
    /// A lost device, or no memory.
    pub fn measure(&mut self, gpu: &Gpu, step: &Recording) -> Result<bool> {
        let Some((timed, dispatches, start)) = self.probe.take() else {
            let dispatches = if self.probed.is_multiple_of(2) { step.dispatches.len() } else { 1 };
            let start = clock::now();
            self.probe = gpu.submit_timed(step, dispatches)?.map(|timed| (timed, dispatches, start));
            return Ok(self.probe.is_none());
        };
        gpu.poll()?;
        if !timed.is_ready() {
            self.probe = Some((timed, dispatches, start));
            return Ok(false);
        }
        let (waited, ran) = (start.elapsed().as_secs_f64(), timed.seconds()?);
        let (known, found) = match self.probed.is_multiple_of(2) {
            true => (&mut self.idle, ran / dispatches as f64),
            false => (&mut self.round_trip, (waited - ran).max(0.0)),
        };
        *known = if self.probed < 2 { found } else { known.min(found) };
        self.probed += 1;
        Ok(self.probed == PROBES)
    }

    /// So many lookups found all that they asked for, and then one did not, or the step ended.
    pub fn saw(&mut self, passed: usize, missed: bool) {
        self.rate *= (1.0 - WEIGHT).powi(passed as i32);
        if missed {
            self.rate += WEIGHT * (1.0 - self.rate);
        }
    }

    /// Layers of so many dispatches to queue behind a lookup that may miss. The n-th saves a round trip if none of the n lookups
    /// before it misses, (1 - rate)^n, and is in vain if one does.
    pub fn layers(&self, dispatches: f64) -> usize {
        let vain = dispatches * self.idle;
        let break_even = vain / (vain + self.round_trip);
        // Infinity becomes the largest integer.
        (break_even.ln().abs() / (1.0 - self.rate).ln().abs()) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(rate: f64, idle: f64) -> Ahead {
        Ahead { rate, ..Ahead::new(idle) }
    }

    #[test]
    fn the_host_runs_ahead_as_far_as_the_misses_let_it_pay() {
        // A layer of 12 dispatches at 2 us: a tenth of a round trip.
        let layers = |rate| at(rate, 2e-6).layers(12.0);
        assert_eq!((layers(0.5), layers(1.0), layers(0.05)), (3, 0, 43));
        assert!(layers(0.01) > 200 && at(0.0, 2e-6).layers(12.0) > 1 << 40);
        assert_eq!(at(0.05, 1.0).layers(12.0), 0, "what costs more than a round trip is not queued in vain");
    }

    #[test]
    fn the_rate_follows_what_lookups_find() {
        let mut ahead = Ahead::new(2e-6);
        (0..50).for_each(|_| ahead.saw(9, true));
        assert!((0.05..0.2).contains(&ahead.rate), "{}", ahead.rate);
        ahead.saw(1000, false);
        assert!(ahead.rate < 1e-3);
        (0..200).for_each(|_| ahead.saw(0, true));
        assert!(ahead.rate > 0.95);
    }
}
