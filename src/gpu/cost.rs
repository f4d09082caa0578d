//! What dispatches must move and compute, and how that is cut into submits.

use super::DeviceProfile;
use std::ops::Range;

/// What a dispatch must move and compute at least; the speed of light is counted from it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Bytes of weights read.
    pub weight_bytes: u64,
    /// Bytes of everything else read and written.
    pub other_bytes: u64,
    /// Floating point operations, a multiply-add being two.
    pub flops: u64,
    /// Bytes of keys and values read, and operations on them, for each position that is cached.
    pub position_bytes: u64,
    pub position_flops: u64,
}

impl Cost {
    /// Bytes moved where `positions` are cached.
    pub fn bytes(&self, positions: usize) -> u64 {
        self.weight_bytes + self.other_bytes + self.position_bytes * positions as u64
    }

    /// The least time that this takes at a device's limits: the longer of moving and computing, and a launch.
    pub fn seconds(&self, positions: usize, limits: &DeviceProfile) -> f64 {
        let flops = self.flops + self.position_flops * positions as u64;
        let moving = self.bytes(positions) as f64 / limits.stream_bytes_per_second;
        moving.max(flops as f64 / limits.flops_per_second) + limits.dispatch_seconds
    }
}

impl std::ops::Div<u64> for Cost {
    type Output = Cost;

    /// The share of one of `parts`.
    fn div(self, parts: u64) -> Cost {
        Cost {
            weight_bytes: self.weight_bytes.div_ceil(parts),
            other_bytes: self.other_bytes.div_ceil(parts),
            flops: self.flops.div_ceil(parts),
            position_bytes: self.position_bytes.div_ceil(parts),
            position_flops: self.position_flops.div_ceil(parts),
        }
    }
}

impl std::ops::Add for Cost {
    type Output = Cost;

    fn add(self, other: Cost) -> Cost {
        Cost {
            weight_bytes: self.weight_bytes + other.weight_bytes,
            other_bytes: self.other_bytes + other.other_bytes,
            flops: self.flops + other.flops,
            position_bytes: self.position_bytes + other.position_bytes,
            position_flops: self.position_flops + other.position_flops,
        }
    }
}

/// Cuts dispatches, whose times are estimated in seconds, into submits of at most `bound` seconds each; a dispatch that
/// alone takes longer is a submit of its own.
pub fn cut(estimates: &[f64], bound: f64) -> Vec<Range<usize>> {
    let mut parts = Vec::new();
    let (mut start, mut sum) = (0, 0.0);
    for (i, estimate) in estimates.iter().enumerate() {
        if i > start && sum + estimate > bound {
            parts.push(start..i);
            (start, sum) = (i, 0.0);
        }
        sum += estimate;
    }
    if start < estimates.len() {
        parts.push(start..estimates.len());
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::cut;

    #[test]
    fn cuts_stay_within_the_bound_and_lose_nothing() {
        assert!(cut(&[], 1.0).is_empty());
        assert_eq!(cut(&[0.4, 0.4, 0.4], 1.0), [0..2, 2..3]);
        assert_eq!(cut(&[5.0, 0.1, 0.1, 5.0], 1.0), [0..1, 1..3, 3..4]);
        assert_eq!(cut(&[0.1; 10], f64::INFINITY).len(), 1);
        assert_eq!(cut(&[0.1; 3], 0.0), [0..1, 1..2, 2..3]);
    }
}
