//! How a session is set up.

use super::Checkpoints;
use crate::gpu::{DeviceProfile, Gpu, Tier};
use crate::memory::KvFormat;
use crate::ops::Arithmetic;
use std::time::Duration;

/// Far under the watchdogs of drivers, about 2 s; and on a shared device about a frame, since what is submitted after waits.
const OWN_SUBMIT: Duration = Duration::from_millis(200);
const SHARED_SUBMIT: Duration = Duration::from_millis(20);

/// How a session is set up.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// Positions of the KV cache, at least 1; `None`: the smaller of the model's and 8192.
    pub context: Option<usize>,
    /// Kernels take the best variant not above this; `None`: the device's best.
    pub tier: Option<Tier>,
    pub kv: KvFormat,
    /// Positions for which keys and values have room at first; it is doubled as a conversation needs it, up to the context.
    pub room: usize,
    /// Most tokens of a prefill step; at most 65,535 are taken.
    pub chunk: usize,
    /// Estimated GPU time that one submit may take; `None`: 20 ms on a device that an app draws with
    /// ([`Gpu::from_wgpu`]), 200 ms on one of halogen's own.
    pub submit: Option<Duration>,
    /// The device's measured limits, for the estimates and for the choice of arithmetic; `None`: low ones are assumed,
    /// and products are computed in f32.
    pub limits: Option<DeviceProfile>,
    /// As `limits`, of the devices that further layers lie on, in their order.
    pub further_limits: Vec<Option<DeviceProfile>>,
    /// This arithmetic in every product that has a kernel of it, whatever is faster: for tests and measurements.
    pub force: Option<Arithmetic>,
    /// Of models that keep recurrent states or windows.
    pub checkpoints: Checkpoints,
    /// Decode steps queued ahead of the token that the host has seen; `None`: about 50 ms of them.
    pub run_ahead: Option<usize>,
}

impl Default for SessionOptions {
    fn default() -> Self {
        SessionOptions {
            context: None,
            tier: None,
            kv: KvFormat::F16,
            room: 1024,
            chunk: 512,
            submit: None,
            limits: None,
            further_limits: Vec::new(),
            force: None,
            checkpoints: Checkpoints::default(),
            run_ahead: None,
        }
    }
}

impl SessionOptions {
    /// The measured limits of one of the devices.
    pub(super) fn limits_of(&self, device: usize) -> Option<DeviceProfile> {
        if device == 0 { self.limits } else { self.further_limits.get(device - 1).copied().flatten() }
    }

    /// The bound of a submit on a device.
    pub(super) fn submit_on(&self, gpu: &Gpu) -> Duration {
        self.submit.unwrap_or(if gpu.is_shared() { SHARED_SUBMIT } else { OWN_SUBMIT })
    }
}
