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
/// What a part costs of its own, over a round trip: a submit, and a report that is read, but not what passes between them.
const PART: f64 = 0.5;
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

    /// Lookups, each with so many dispatches behind it that take so many seconds, to be given in a part of a step, of which two are
    /// on their way. 0: one part at a time, to the next lookup, where what is queued in vain costs more than a round trip.
    ///
    /// Of parts of n lookups, a lookup costs 1 / n of a part's own cost; 1 / n of what a round trip is longer than a part, since the
    /// device has nothing to do then; and with a miss the rest of its part, (n - 1) / 2 as a mean, and the part behind it in vain.
    pub fn lookups(&self, dispatches: usize, seconds: f64) -> usize {
        let vain = self.rate * dispatches as f64 * self.idle;
        if vain >= self.round_trip.min(seconds) {
            return 0;
        }
        let part = PART * self.round_trip;
        let best = |fixed: f64| (fixed / (1.5 * vain)).sqrt();
        let covered = best(part + self.round_trip).min(self.round_trip / seconds);
        // Infinity becomes the largest integer.
        best(part).max(covered).round().max(1.0) as usize
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
        // A layer of 12 dispatches at 2 us, a tenth of a round trip, that takes 150 us.
        let lookups = |rate| at(rate, 2e-6).lookups(12, 150e-6);
        assert_eq!((lookups(1.0), lookups(0.3), lookups(0.05), lookups(0.01)), (2, 3, 7, 17));
        assert_eq!(at(0.3, 2e-6).lookups(12, 20e-6), 5, "short layers, of which one does not cover a round trip");
        assert!(at(0.0, 2e-6).lookups(12, 150e-6) > 1 << 40);
        assert_eq!(at(0.05, 1.0).lookups(12, 150e-6), 0, "what costs more than a round trip is not queued in vain");
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
