//! Whether a model fits, before anything is allocated.

use super::{Error, Placement, PlacementOptions, Result, System};
use crate::gguf::Gguf;
use crate::gpu::{Gpu, Heap};

/// The share of a device that is left to others where experts take all else: a sixteenth.
pub(super) const MARGIN: u64 = 16;

/// Bytes that a model and one session take on the device.
#[derive(Clone, Copy, Debug, Default)]
pub struct Needs {
    pub weights: u64,
    pub kv: u64,
    pub scratch: u64,
    /// Of the host's memory, which some devices share.
    pub checkpoints: u64,
    /// Positions of the KV cache.
    pub context: usize,
}

impl Needs {
    pub fn total(&self) -> u64 {
        self.weights.saturating_add(self.kv).saturating_add(self.scratch).saturating_add(self.checkpoints)
    }

    /// What of this lies in the memory that a device of this kind uses.
    fn on(self, kind: wgpu::DeviceType) -> Needs {
        let shared = matches!(kind, wgpu::DeviceType::Cpu | wgpu::DeviceType::IntegratedGpu);
        Needs { checkpoints: if shared { self.checkpoints } else { 0 }, ..self }
    }

    /// Fails if the device is known to have less memory than this.
    pub fn check(&self, gpu: &Gpu) -> Result<()> {
        let needs = self.on(gpu.info().device_type);
        match available_bytes(gpu.info().device_type, gpu.heaps()) {
            Some(available) if needs.total() > available => Err(needs.does_not_fit(gpu, available)),
            _ => Ok(()),
        }
    }

    fn does_not_fit(&self, gpu: &Gpu, available: u64) -> Error {
        let Needs { weights, kv, scratch, checkpoints, context } = *self;
        let (total, adapter) = (self.total(), gpu.info().name.clone());
        Error::DoesNotFit { weights, kv, scratch, checkpoints, total, available, context, adapter }
    }

    /// Where the weights lie: all on the device if they fit there with the rest, else in part, within `budget` bytes if there is
    /// one, else within what the device has, less a margin.
    ///
    /// # Errors
    /// The rest alone does not fit, or not the least part of the weights beside it.
    pub fn placed(&self, gguf: &Gguf, gpu: &Gpu, options: &PlacementOptions) -> Result<Placement> {
        let PlacementOptions { budget, experts_on_host } = *options;
        let on_host = |bytes| Placement::with_experts_on_host(gguf, bytes, experts_on_host);
        let Some(all) = budget.or_else(|| available_bytes(gpu.info().device_type, gpu.heaps())) else {
            return on_host(u64::MAX);
        };
        let needs = self.on(gpu.info().device_type);
        if needs.total() <= all {
            return on_host(u64::MAX);
        }
        let rest = needs.total() - needs.weights;
        let usable = if budget.is_some() { all } else { all - all / MARGIN };
        if rest >= usable && budget.is_none() {
            return Err(needs.does_not_fit(gpu, all));
        }
        on_host(usable.saturating_sub(rest)).map_err(|error| match error {
            Error::BelowLeast { file, least, stays, layer, experts, .. } => {
                let least = least.saturating_add(rest);
                Error::BelowLeast { file, bytes: usable, least, session: rest, stays, layer, experts }
            }
            error => error,
        })
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

/// As [`available_bytes`], of one of several devices that are used beside each other, less a margin: those on the host's memory
/// share that, and an adapter that is opened twice shares its own.
pub fn available_among(gpus: &[Gpu], index: usize) -> Option<u64> {
    let on_host = |gpu: &Gpu| matches!(gpu.info().device_type, wgpu::DeviceType::Cpu | wgpu::DeviceType::IntegratedGpu);
    let gpu = &gpus[index];
    let place = |gpu: &Gpu| (gpu.info().name.clone(), gpu.info().device_pci_bus_id.clone());
    let same = |other: &&Gpu| match on_host(gpu) {
        true => on_host(other),
        false => std::ptr::eq(*other, gpu) || !place(gpu).1.is_empty() && place(gpu) == place(other),
    };
    let all = available_bytes(gpu.info().device_type, gpu.heaps())?;
    Some((all - all / MARGIN) / gpus.iter().filter(same).count() as u64)
}
