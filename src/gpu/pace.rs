//! Giving work to a device no faster than a budget of GPU time allows: what it holds, how long that is estimated to take, and
//! how long it took.

use super::submit::elapsed;
use super::{
    DeviceProfile, Dispatch, Estimate, Gpu, Kernel, Mark, Part, Readback, Recording, Result, Stamp, View, next,
};
use crate::clock::{self, Instant};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Submits that can be timed at once; others are known by when they were seen to end.
const STAMPS: u32 = 16;
/// A submit is about this share of a budget: what it holds counts until it has ended as a whole.
const SHARE: f64 = 0.25;
/// Seconds below which a submit is not made shorter for that.
const SHORT: f64 = 250e-6;

/// In place of a kernel's address: copies are corrected like one.
const COPIES: usize = 0;

/// What submits within budgets have taken so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GpuUse {
    pub submits: u64,
    /// Those that took longer than the budget under which they were given.
    pub over: u64,
    /// GPU time, where the device has timestamps.
    pub time: Duration,
    /// What it was estimated to be.
    pub estimated: Duration,
}

impl std::ops::Add for GpuUse {
    type Output = GpuUse;

    fn add(self, other: GpuUse) -> GpuUse {
        GpuUse {
            submits: self.submits + other.submits,
            over: self.over + other.over,
            time: self.time + other.time,
            estimated: self.estimated + other.estimated,
        }
    }
}

/// Work on its way.
struct Given {
    seconds: f64,
    budget: f64,
    /// Each with its ratio then.
    kernels: BTreeMap<usize, f64>,
    at: Instant,
    /// When it was seen last not to have ended.
    running: Instant,
    end: End,
}

/// How the end of a submit is known.
enum End {
    Stamps(Readback, Stamp),
    Seen(Arc<AtomicBool>),
}

impl End {
    /// Of all that was submitted so far.
    fn seen(gpu: &Gpu) -> End {
        End::Seen(gpu.seen())
    }
}

/// One queue of work, in order.
pub struct Pace {
    limits: DeviceProfile,
    given: VecDeque<Given>,
    /// Time over estimate of each kernel, by its address: recordings keep kernels where they are.
    ratios: HashMap<usize, Ratio>,
    stamps: Option<Vec<Stamp>>,
    /// When something was seen last to have ended.
    freed: Instant,
    used: GpuUse,
}

fn key(kernel: &Arc<Kernel>) -> usize {
    Arc::as_ptr(kernel) as usize
}

impl Pace {
    /// `limits` are those of the device, measured or assumed.
    pub fn new(limits: DeviceProfile) -> Pace {
        let (given, ratios) = (VecDeque::new(), HashMap::new());
        Pace { limits, given, ratios, stamps: None, freed: clock::now(), used: GpuUse::default() }
    }

    pub fn used(&self) -> GpuUse {
        self.used
    }

    /// Seconds of work that was given and has not been seen to end.
    pub fn given(&self) -> f64 {
        self.given.iter().map(|given| given.seconds).sum()
    }

    /// Submits that it was given in.
    pub fn parts_given(&self) -> usize {
        self.given.len()
    }

    /// Bytes that may be copied now: what is left of the budget; something, where the device holds nothing.
    pub fn room(&self, budget: f64) -> u64 {
        let bytes = ((budget - self.given()).max(0.0) / self.copy_seconds(1)) as u64;
        bytes.max(u64::from(self.given.is_empty()))
    }

    /// How many of these may be copied now, by their bytes, in order: what fits into what is left of the budget; one, where the
    /// device holds nothing.
    pub fn fitting(&self, sizes: impl Iterator<Item = u64>, budget: f64) -> usize {
        let mut room = Some(self.room(budget));
        let fits = |bytes: &u64| {
            room = room.and_then(|room| room.checked_sub(*bytes));
            room.is_some()
        };
        sizes.take_while(fits).count().max(usize::from(self.given.is_empty()))
    }

    fn copy_seconds(&self, bytes: u64) -> f64 {
        2.0 * self.ratio(COPIES) * bytes as f64 / self.limits.stream_bytes_per_second
    }

    /// Takes note of bytes that the queue was given to copy, of writes that wait for a submit too: they are handed over.
    pub fn copied(&mut self, gpu: &Gpu, bytes: u64, budget: f64) -> Result<()> {
        if bytes == 0 || budget.is_infinite() {
            return Ok(());
        }
        gpu.flush()?;
        let (seconds, at) = (self.copy_seconds(bytes), clock::now());
        self.given.push_back(Given {
            seconds,
            budget,
            kernels: [(COPIES, self.ratio(COPIES))].into(),
            at,
            running: at,
            end: End::seen(gpu),
        });
        Ok(())
    }

    fn ratio(&self, kernel: usize) -> f64 {
        self.ratios.get(&kernel).map_or(1.0, |ratio| ratio.value)
    }

    /// What a dispatch takes where `positions` are cached: the limits doubled, since no kernel reaches them, until its kernel
    /// has been timed.
    pub fn estimate(&self, dispatch: &Dispatch, positions: usize) -> Estimate {
        let ratio = 2.0 * self.ratio(key(&dispatch.kernel));
        Estimate {
            launch: ratio * self.limits.dispatch_seconds,
            work: ratio * dispatch.cost.work_seconds(positions, &self.limits),
            groups: dispatch.groups(),
        }
    }

    /// The next part of a recording that may be given: [`next`], by these estimates. `bound` is that of any submit; an
    /// infinite budget is not counted.
    pub fn next(
        &self,
        recording: &Recording,
        range: Range<Mark>,
        positions: usize,
        budget: f64,
        bound: f64,
    ) -> Option<Part> {
        let estimate = |i: usize| self.estimate(&recording.dispatches[i], positions);
        let given = (!self.given.is_empty()).then(|| self.given());
        let bound = bound.min((SHARE * budget).max(SHORT));
        next(estimate, range.start, range.end.dispatch, given, budget, bound)
    }

    /// Submits a part. Work within an infinite budget is neither timed nor counted.
    pub fn submit(
        &mut self,
        gpu: &Gpu,
        recording: &Recording,
        from: Mark,
        part: Part,
        budget: f64,
        read: &[&View],
    ) -> Result<Vec<Readback>> {
        if budget.is_infinite() {
            return gpu.submit_part(recording, from..part.to, None, read);
        }
        let stamps = match &mut self.stamps {
            Some(stamps) => stamps,
            none => none.insert(Stamp::several(gpu, STAMPS)?),
        };
        let stamp = stamps.pop();
        let mut views = read.to_vec();
        views.extend(stamp.as_ref().map(|stamp| &stamp.ticks));
        let at = clock::now();
        let mut readbacks = gpu.submit_part(recording, from..part.to, stamp.as_ref(), &views)?;
        let end = match stamp {
            Some(stamp) => End::Stamps(readbacks.pop().expect("of the stamp"), stamp),
            None => End::seen(gpu),
        };
        let last = part.to.dispatch + usize::from(part.to.group > 0);
        let kernels = recording.dispatches[from.dispatch..last].iter().map(|d| key(&d.kernel));
        let kernels = kernels.map(|kernel| (kernel, self.ratio(kernel))).collect();
        self.given.push_back(Given { seconds: part.seconds, budget, kernels, at, running: at, end });
        Ok(readbacks)
    }

    /// Takes note of what has ended, and corrects the estimates; after [`Gpu::poll`].
    ///
    /// # Errors
    /// A lost device.
    pub fn look(&mut self, gpu: &Gpu) -> Result<()> {
        while let Some(given) = self.given.front_mut() {
            let ended = match &given.end {
                End::Stamps(ticks, _) => ticks.is_ready(),
                End::Seen(seen) => seen.load(Ordering::Acquire),
            };
            if !ended {
                given.running = clock::now();
                break;
            }
            let Given { seconds, budget, kernels, at, running, end } = self.given.pop_front().expect("the front");
            let took = match end {
                End::Stamps(ticks, stamp) => {
                    self.stamps.get_or_insert_default().push(stamp);
                    // What a lost device was given does not end.
                    let ticks = ticks.take().inspect_err(|_| self.given.clear())?;
                    let took = elapsed(&ticks, f64::from(gpu.queue().get_timestamp_period()));
                    self.used.time += Duration::from_secs_f64(took);
                    took
                }
                End::Seen(_) => {
                    // It may have ended long before it was seen to, but not before it was seen to run.
                    let least = running.saturating_duration_since(self.freed).as_secs_f64();
                    seconds.clamp(least, least.max(at.elapsed().as_secs_f64()))
                }
            };
            self.freed = clock::now();
            self.used.submits += 1;
            self.used.over += u64::from(took > budget);
            self.used.estimated += Duration::from_secs_f64(seconds);
            for (kernel, then) in kernels {
                self.ratios.entry(kernel).or_insert(Ratio::UNKNOWN).learn(then * took / seconds);
            }
        }
        Ok(())
    }
}

/// Time over estimate of a kernel, as it was last, and what it is taken for.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Ratio {
    value: f64,
    last: f64,
}

/// By how much one measure alone can be above what was expected: it may have waited for something else.
const SURPRISE: f64 = 1.5;

impl Ratio {
    /// Until the kernel has been timed. The first measure is no surprise.
    const UNKNOWN: Ratio = Ratio { value: 1.0, last: f64::INFINITY };

    /// It rises faster than it falls, since a budget is a promise; the first of two high measures counts no more than a surprise.
    fn learn(&mut self, measured: f64) {
        let measured = if measured.is_nan() { self.value } else { measured.clamp(self.value / 4.0, self.value * 4.0) };
        let to = measured.min(self.last.max(self.value * SURPRISE));
        let weight = if to > self.value { 0.5 } else { 0.125 };
        self.value = (self.value + weight * (to - self.value)).clamp(1e-3, 1e3);
        self.last = measured;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn estimates_follow_what_submits_take() {
        // A kernel that takes a tenth of what is assumed, and one that takes five times it.
        for truth in [0.1, 1.0, 5.0] {
            let mut ratio = Ratio::UNKNOWN;
            (0..60).for_each(|_| ratio.learn(truth));
            assert!((ratio.value / truth - 1.0).abs() < 0.05, "{ratio:?} for {truth}");
        }
        for odd in [1e9, f64::NAN, 0.0, f64::INFINITY] {
            let mut ratio = Ratio::UNKNOWN;
            ratio.learn(odd);
            assert!((0.5..=4.0).contains(&ratio.value), "{ratio:?} after {odd}");
        }
    }

    #[test]
    fn one_bad_measure_costs_little_and_two_are_believed() {
        let after = |measures: &[f64]| {
            let mut ratio = Ratio { value: 1.0, last: 1.0 };
            measures.iter().for_each(|measured| ratio.learn(*measured));
            ratio.value
        };
        // A quarter more, an eighth of which is let go with each measure after.
        assert_eq!(after(&[4.0]), 1.25);
        assert_eq!(after(&[4.0, 1.0]), 1.21875);
        // The second counts in full.
        assert_eq!(after(&[4.0, 4.0]), 1.25 + 0.5 * (4.0 - 1.25));
        // What is no surprise does at once, and falls slowly.
        assert_eq!(after(&[1.25]), 1.125);
        assert_eq!(after(&[0.5]), 0.9375);
        // Every tenth submit waits for something else: what is between is estimated an eighth too long, not a third.
        let waits: Vec<f64> = (0..200).map(|i| if i % 10 == 0 { 3.0 } else { 1.0 }).collect();
        assert!((1.0..1.125).contains(&after(&waits)), "{}", after(&waits));
    }
}
