//! What dispatches must move and compute.

use super::DeviceProfile;

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
        self.work_seconds(positions, limits) + limits.dispatch_seconds
    }

    /// As [`Cost::seconds`], without the launch.
    pub fn work_seconds(&self, positions: usize, limits: &DeviceProfile) -> f64 {
        let flops = self.flops + self.position_flops * positions as u64;
        let moving = self.bytes(positions) as f64 / limits.stream_bytes_per_second;
        moving.max(flops as f64 / limits.flops_per_second)
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
