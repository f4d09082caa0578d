//! How far the host runs ahead where experts come and go: what is queued behind a lookup that misses is queued in vain, what is not
//! queued costs a round trip.

/// Of lookups, how many miss: a running mean over about the last 32.
pub(super) struct Misses {
    rate: f64,
}

const WEIGHT: f64 = 1.0 / 32.0;
/// Seconds from the end of what was queued to the start of what was not: a report that is read, and a submit.
const ROUND_TRIP: f64 = 200e-6;

impl Misses {
    /// Before anything is known.
    pub fn new() -> Misses {
        Misses { rate: 0.5 }
    }

    /// So many lookups found all that they asked for, and then one did not, or the step ended.
    pub fn saw(&mut self, passed: usize, missed: bool) {
        self.rate *= (1.0 - WEIGHT).powi(passed as i32);
        if missed {
            self.rate += WEIGHT * (1.0 - self.rate);
        }
    }

    /// Layers to queue behind one whose lookup may miss, at least one, where a layer queued in vain costs `vain` seconds. The n-th
    /// saves a round trip if none before it misses, (1 - rate)^n, and is in vain if one does.
    pub fn layers_ahead(&self, vain: f64) -> usize {
        let break_even = vain / (vain + ROUND_TRIP);
        // Infinity becomes the largest integer.
        ((break_even.ln().abs() / (1.0 - self.rate).ln().abs()) as usize).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_runs_ahead_as_far_as_the_misses_let_it_pay() {
        let at = |rate| Misses { rate };
        // A layer of 12 dispatches at 2 us: a tenth of a round trip.
        let ahead = |rate| at(rate).layers_ahead(24e-6);
        assert_eq!((ahead(0.5), ahead(1.0), ahead(0.05)), (3, 1, 43));
        assert!(ahead(0.01) > 200 && at(0.0).layers_ahead(24e-6) > 1 << 40);
        assert_eq!(at(0.05).layers_ahead(1.0), 1, "what costs more than a round trip is not queued in vain");
    }

    #[test]
    fn the_rate_follows_what_lookups_find() {
        let mut misses = Misses::new();
        (0..50).for_each(|_| misses.saw(9, true));
        assert!((0.05..0.2).contains(&misses.rate), "{}", misses.rate);
        misses.saw(1000, false);
        assert!(misses.rate < 1e-3);
        (0..200).for_each(|_| misses.saw(0, true));
        assert!(misses.rate > 0.95);
    }
}
