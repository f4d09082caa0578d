//! Whether a model fits, before anything is allocated.

use super::{Error, Result, System};
use crate::gpu::{Gpu, Heap};

/// Bytes that a model and one session take on the device.
#[derive(Clone, Copy, Debug, Default)]
pub struct Needs {
    pub weights: u64,
    pub kv: u64,
    pub scratch: u64,
    /// Positions of the KV cache.
    pub context: usize,
}

impl Needs {
    pub fn total(&self) -> u64 {
        self.weights.saturating_add(self.kv).saturating_add(self.scratch)
    }

    /// Fails if the device is known to have less memory than this.
    pub fn check(&self, gpu: &Gpu) -> Result<()> {
        let Some(available) = available_bytes(gpu.info().device_type, gpu.heaps()) else { return Ok(()) };
        if self.total() <= available {
            return Ok(());
        }
        let Needs { weights, kv, scratch, context } = *self;
        let (total, adapter) = (self.total(), gpu.info().name.clone());
        Err(Error::DoesNotFit { weights, kv, scratch, total, available, context, adapter })
    }
}

/// Bytes of memory that a device of this kind can use: what is free of the host's for devices that share it, where the system
/// tells (Linux does); else the largest heap of its own. Drivers of integrated devices there count a part of what they may use.
pub fn available_bytes(kind: wgpu::DeviceType, heaps: &[Heap]) -> Option<u64> {
    let own = || heaps.iter().filter(|heap| heap.device_local).map(|heap| heap.bytes).max();
    match kind {
        wgpu::DeviceType::Cpu => System::read().available.or_else(own),
        wgpu::DeviceType::IntegratedGpu => System::read().shared().or_else(own),
        _ => own(),
    }
}
