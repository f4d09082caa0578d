//! How far the host runs ahead where experts come and go: what is queued behind a lookup that misses is queued in vain, what is not
//! queued costs a round trip.

use super::Result;
use crate::gpu::{Gpu, Recording, Timed};

/// What decides it: how often lookups miss, and what a dispatch costs that does nothing.
pub(super) struct Ahead {
    /// Of lookups, how many miss: a running mean over about the last 32.
    rate: f64,
    /// Seconds of a dispatch behind a halt: it tests the halt word in each of its workgroups.
    idle: f64,
    /// Steps behind a halt that are being timed, each of so many dispatches.
    probes: Vec<(Timed, usize)>,
}

const WEIGHT: f64 = 1.0 / 32.0;
/// Seconds from the end of what was queued to the start of what was not: a report that is read, and a submit.
const ROUND_TRIP: f64 = 200e-6;

impl Ahead {
    /// Before anything is known but what a dispatch is taken to cost at least.
    pub fn new(dispatch_seconds: f64) -> Ahead {
        Ahead { rate: 0.5, idle: dispatch_seconds, probes: Vec::new() }
    }

    /// Has the device time a step, which must stand behind a halt, if it can.
    ///
    /// # Errors
    /// A lost device, or no memory.
    pub fn time_idle(&mut self, gpu: &Gpu, step: &Recording) -> Result<()> {
        let timed = gpu.submit_timed(step)?;
        self.probes.extend(timed.map(|timed| (timed, step.dispatches.len())));
        Ok(())
    }

    /// Takes in what has been timed, once all of it has ended.
    ///
    /// # Errors
    /// A lost device.
    pub fn look(&mut self) -> Result<()> {
        if self.probes.is_empty() || !self.probes.iter().all(|(timed, _)| timed.is_ready()) {
            return Ok(());
        }
        // What is longer than the shortest has waited for something else.
        let mut shortest = f64::INFINITY;
        for (timed, dispatches) in self.probes.drain(..) {
            shortest = shortest.min(timed.seconds()? / dispatches.max(1) as f64);
        }
        self.idle = shortest;
        Ok(())
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
        let break_even = vain / (vain + ROUND_TRIP);
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
