//! How recordings are cut into submits: a pure function of what dispatches are estimated to take.

/// A point within a recording: so many whole dispatches, and so many groups of the grid of the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    pub dispatch: usize,
    pub group: u32,
}

impl From<usize> for Mark {
    fn from(dispatch: usize) -> Mark {
        Mark { dispatch, group: 0 }
    }
}

/// What a dispatch is estimated to take, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// Of each part of the dispatch.
    pub launch: f64,
    /// Of all its groups together.
    pub work: f64,
    /// Groups that may be submitted apart; 1: the dispatch is not divisible.
    pub groups: u32,
}

/// What one submit holds, from where the one before ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Part {
    pub to: Mark,
    /// The estimate.
    pub seconds: f64,
}

/// The default limit of workgroups a dimension, and Metal's and DX12's: a part of a grid is not folded.
const MOST_GROUPS: u32 = 65_535;
/// Seconds below which nothing is divided: a launch takes about as long.
const LEAST_SLICE: f64 = 50e-6;

/// The longest part from `from` on, before the dispatch `end`, that is estimated within `bound` seconds; where there is none,
/// the smallest slice.
pub fn cut(estimate: impl Fn(usize) -> Estimate, from: Mark, end: usize, bound: f64) -> Part {
    let mut part = Part { to: from, seconds: 0.0 };
    while part.to.dispatch < end {
        let Estimate { launch, work, groups } = estimate(part.to.dispatch);
        let (rest, each) = (groups - part.to.group, work / f64::from(groups));
        let whole = launch + each * f64::from(rest);
        if part.seconds + whole <= bound && (part.to.group == 0 || rest <= MOST_GROUPS) {
            part = Part { to: (part.to.dispatch + 1).into(), seconds: part.seconds + whole };
            continue;
        }
        // A float that no integer holds becomes the nearest that there is.
        let least = ((LEAST_SLICE / each).ceil() as u32).clamp(1, rest.min(MOST_GROUPS));
        let mut fit = (((bound - part.seconds - launch) / each).floor() as u32).min(rest).min(MOST_GROUPS);
        if fit < least {
            fit = if part.to == from { least } else { 0 };
        }
        if fit > 0 {
            let group = part.to.group + fit;
            let done = group == groups;
            part.to = Mark { dispatch: part.to.dispatch + usize::from(done), group: if done { 0 } else { group } };
            part.seconds += launch + each * f64::from(fit);
        }
        break;
    }
    part
}

/// The next part that may be given to a device which holds `given` seconds of work, and none if `given` is `None`: what it
/// holds then stays within `budget`, unless the part is the smallest slice and alone. No part is longer than `bound`.
pub fn next(
    estimate: impl Fn(usize) -> Estimate,
    from: Mark,
    end: usize,
    given: Option<f64>,
    budget: f64,
    bound: f64,
) -> Option<Part> {
    let room = budget - given.unwrap_or(0.0);
    let part = cut(estimate, from, end, bound.min(room));
    (given.is_none() || part.seconds <= room).then_some(part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn whole(seconds: f64) -> Estimate {
        Estimate { launch: 0.0, work: seconds, groups: 1 }
    }

    fn parts(estimates: &[Estimate], bound: f64) -> Vec<Mark> {
        let (mut at, mut ends) = (Mark::default(), Vec::new());
        while at.dispatch < estimates.len() {
            at = cut(|i| estimates[i], at, estimates.len(), bound).to;
            ends.push(at);
        }
        ends
    }

    fn ends(seconds: &[f64], bound: f64) -> Vec<usize> {
        let estimates: Vec<Estimate> = seconds.iter().map(|s| whole(*s)).collect();
        parts(&estimates, bound).into_iter().map(|mark| mark.dispatch).collect()
    }

    #[test]
    fn whole_dispatches_fill_a_bound() {
        assert!(ends(&[], 1.0).is_empty());
        assert_eq!(ends(&[0.5, 0.5, 0.5], 1.0), [2, 3]);
        assert_eq!(ends(&[5.0, 0.1, 0.1, 5.0], 1.0), [1, 3, 4]);
        assert_eq!(ends(&[0.1; 10], f64::INFINITY), [10]);
        assert_eq!(ends(&[0.1; 3], 0.0), [1, 2, 3]);
    }

    #[test]
    fn a_dispatch_is_cut_where_the_bound_falls() {
        let e = [whole(0.5), Estimate { launch: 0.25, work: 8.0, groups: 16 }, whole(0.125)];
        let at = |dispatch, group| Mark { dispatch, group };
        // Half a second is left for it, of which a quarter is its launch: no group. Then a launch and three; the rest.
        assert_eq!(cut(|i| e[i], 0.into(), 3, 1.0), Part { to: at(1, 0), seconds: 0.5 });
        assert_eq!(cut(|i| e[i], 0.into(), 3, 2.0), Part { to: at(1, 2), seconds: 1.75 });
        assert_eq!(cut(|i| e[i], at(1, 2), 3, 2.0), Part { to: at(1, 5), seconds: 1.75 });
        assert_eq!(cut(|i| e[i], at(1, 14), 3, 2.0), Part { to: at(3, 0), seconds: 1.375 });
        // Less than a group fits: one is taken.
        assert_eq!(cut(|i| e[i], at(1, 5), 3, 0.5), Part { to: at(1, 6), seconds: 0.75 });
    }

    #[test]
    fn slices_are_no_shorter_than_launches_and_no_longer_than_a_dimension() {
        let fine = [Estimate { launch: 0.0, work: 16.0 * LEAST_SLICE, groups: 1024 }];
        assert_eq!(cut(|i| fine[i], 0.into(), 1, 0.0).to, Mark { dispatch: 0, group: 64 });
        let long = [Estimate { launch: 0.0, work: 1.0, groups: 200_000 }];
        let ends = parts(&long, 0.9);
        assert_eq!(ends[..2], [65_535, 131_070].map(|group| Mark { dispatch: 0, group }));
        assert_eq!(ends.last(), Some(&Mark::from(1)));
        assert_eq!(parts(&long, 1.0), [Mark::from(1)], "a grid as it was recorded is folded");
    }

    #[test]
    fn a_device_is_given_no_more_than_the_budget() {
        let e = [whole(0.5), whole(0.5), whole(3.0)];
        let next = |from: usize, given, budget, bound| {
            next(|i| e[i], from.into(), 3, given, budget, bound).map(|part| part.to.dispatch)
        };
        assert_eq!(next(0, None, 1.0, 1.0), Some(2));
        assert_eq!(next(0, None, 1.0, 0.6), Some(1));
        assert_eq!(next(0, Some(0.5), 1.0, 1.0), Some(1));
        assert_eq!(next(0, Some(0.75), 1.0, 1.0), None);
        // What is not divisible waits for an idle device.
        assert_eq!((next(2, Some(0.1), 1.0, 1.0), next(2, None, 1.0, 1.0)), (None, Some(3)));
        assert_eq!(next(0, Some(9.0), f64::INFINITY, 1.0), Some(2));
    }

    proptest! {
        #[test]
        fn parts_lose_nothing_and_stay_within_the_bound(
            sizes in prop::collection::vec((0.0..1e-3f64, 0.0..1e-2f64, 1u32..100_000), 1..20),
            bound in 0.0..1e-2f64,
        ) {
            let estimates: Vec<Estimate> =
                sizes.iter().map(|(launch, work, groups)| Estimate { launch: *launch, work: *work, groups: *groups }).collect();
            let mut at = Mark::default();
            while at.dispatch < estimates.len() {
                let part = cut(|i| estimates[i], at, estimates.len(), bound);
                prop_assert!(part.to > at);
                if part.seconds > bound {
                    // Alone, and either not divisible or no longer than it must be.
                    let Estimate { launch, work, groups } = estimates[at.dispatch];
                    let each = work / f64::from(groups);
                    prop_assert!(part.to <= Mark::from(at.dispatch + 1));
                    let least = (LEAST_SLICE / each).ceil().max(1.0) * each + launch;
                    prop_assert!(part.seconds <= least * (1.0 + 1e-9), "{} s, {least} s would do", part.seconds);
                }
                at = part.to;
            }
            prop_assert_eq!(at, Mark::from(estimates.len()));
        }
    }
}
