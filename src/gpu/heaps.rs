//! What memory the driver says there is. WebGPU does not tell; the backends beneath it do.

/// A pool of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Heap {
    pub bytes: u64,
    /// The device's own, or what it may use of the host's as its own.
    pub device_local: bool,
}

/// The heaps of an adapter, as its driver numbers them: Vulkan's memory heaps, Metal's recommended working set, the dedicated
/// and the shared memory of DXGI. Empty where the backend does not say.
pub(super) fn heaps(adapter: &wgpu::Adapter) -> Vec<Heap> {
    match adapter.get_info().backend {
        #[cfg(not(any(target_vendor = "apple", target_family = "wasm")))]
        wgpu::Backend::Vulkan => vulkan(adapter),
        #[cfg(windows)]
        wgpu::Backend::Dx12 => dx12(adapter),
        #[cfg(target_vendor = "apple")]
        wgpu::Backend::Metal => metal(adapter),
        _ => Vec::new(),
    }
}

#[cfg(not(any(target_vendor = "apple", target_family = "wasm")))]
fn vulkan(adapter: &wgpu::Adapter) -> Vec<Heap> {
    /// VK_MEMORY_HEAP_DEVICE_LOCAL_BIT
    const DEVICE_LOCAL: u32 = 1;
    // SAFETY: the adapter is only asked, and outlives the question.
    let Some(raw) = (unsafe { adapter.as_hal::<wgpu::hal::vulkan::Api>() }) else { return Vec::new() };
    let instance = raw.shared_instance().raw_instance();
    // SAFETY: the physical device is this instance's.
    let memory = unsafe { instance.get_physical_device_memory_properties(raw.raw_physical_device()) };
    let heaps = memory.memory_heaps.iter().take(memory.memory_heap_count as usize);
    heaps.map(|h| Heap { bytes: h.size, device_local: h.flags.as_raw() & DEVICE_LOCAL != 0 }).collect()
}

#[cfg(windows)]
fn dx12(adapter: &wgpu::Adapter) -> Vec<Heap> {
    // SAFETY: the adapter is only asked, and outlives the question.
    let Some(raw) = (unsafe { adapter.as_hal::<wgpu::hal::dx12::Api>() }) else { return Vec::new() };
    // SAFETY: a query without arguments.
    let Ok(description) = (unsafe { raw.raw_adapter().GetDesc() }) else { return Vec::new() };
    let own = Heap { bytes: description.DedicatedVideoMemory as u64, device_local: true };
    let shared = Heap { bytes: description.SharedSystemMemory as u64, device_local: false };
    [own, shared].into_iter().filter(|heap| heap.bytes > 0).collect()
}

#[cfg(target_vendor = "apple")]
fn metal(adapter: &wgpu::Adapter) -> Vec<Heap> {
    use objc2_metal::MTLDevice;
    // SAFETY: the adapter is only asked, and outlives the question.
    let Some(raw) = (unsafe { adapter.as_hal::<wgpu::hal::metal::Api>() }) else { return Vec::new() };
    vec![Heap { bytes: raw.raw_device().recommendedMaxWorkingSetSize(), device_local: true }]
}
