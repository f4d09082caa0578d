//! Pages of a file as the memory of buffers: the device reads weights where the page cache holds them, and nothing is copied.
//!
//! wgpu makes no such buffers, so they are made one floor below, by wgpu-hal: Vulkan imports host memory
//! (VK_EXT_external_memory_host, which the device must have been opened with), Metal takes pages as they are
//! (newBufferWithBytesNoCopy). Why that is safe, and why it happens only where somebody asked for it:
//!
//! - The pages stay mapped for as long as the device may read them. Each buffer owns a share of the mapping. wgpu destroys a buffer
//!   when nobody holds it and the last submit that names it has ended; only then go, in this order, the buffer, its memory and the
//!   share of the mapping.
//! - Nobody writes. The mapping is read-only, the buffers can be bound and copied from, not copied to or mapped, and kernels declare
//!   weights `var<storage, read>`. wgpu takes what wgpu-hal made for initialised: it does not clear it.
//! - No reference of Rust's to the bytes exists. They are the file's, and another program may change them: the answers change. No
//!   memory is at stake, since kernels take shapes, offsets and ids from what the host has copied and checked, and from weights
//!   only numbers, and indices into codebooks that have an entry for every value of their bits.
//! - **A file that shrinks takes pages away.** A software device then ends with SIGBUS, and the program with it; a GPU reads what it
//!   had pinned, or faults and is lost. Positioned reads give an error. No check helps, since a file may shrink at any time: so only
//!   who knows that his files stay as they are asks for this.

use super::{Error, Gpu, Result, View};
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// All of a file, mapped, for the device to read.
pub(crate) struct Pages {
    #[cfg(feature = "native-io")]
    map: memmap2::MmapRaw,
    #[cfg(not(feature = "native-io"))]
    none: std::convert::Infallible,
}

#[cfg(feature = "native-io")]
impl Pages {
    #[allow(clippy::disallowed_types, reason = "part of `native-io`")]
    pub fn of(file: &std::fs::File) -> io::Result<Pages> {
        Ok(Pages { map: memmap2::MmapOptions::new().map_raw_read_only(file)? })
    }

    /// Has the system map bytes that were read just now, where it can: else the device's first look at each page does.
    pub fn populate(&self, bytes: Range<u64>) {
        #[cfg(target_os = "linux")]
        if bytes.start < bytes.end && bytes.end <= self.len() {
            // Linux before 5.14 does not know how.
            let (start, len) = (bytes.start as usize, (bytes.end - bytes.start) as usize);
            let _ = self.map.advise_range(memmap2::Advice::PopulateRead, start, len);
        }
        #[cfg(not(target_os = "linux"))]
        let _ = bytes;
    }

    /// The address of the first byte.
    fn start(&self) -> u64 {
        self.map.as_ptr() as u64
    }

    pub fn len(&self) -> u64 {
        self.map.len() as u64
    }
}

#[cfg(not(feature = "native-io"))]
#[allow(clippy::disallowed_types, reason = "what cannot be had without `native-io`")]
impl Pages {
    pub fn of(_: &std::fs::File) -> io::Result<Pages> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "halogen was built without `native-io`"))
    }

    pub fn populate(&self, _: Range<u64>) {
        match self.none {}
    }

    fn start(&self) -> u64 {
        match self.none {}
    }

    pub fn len(&self) -> u64 {
        match self.none {}
    }
}

/// Least bytes of a page, on every system. A mapping reaches to the end of its last one.
const PAGE: u64 = 4096;

/// The addresses of the runs of `align` bytes around `bytes` of a mapping of `len` bytes at `start`; `None` where they pass its ends.
fn around(start: u64, len: u64, bytes: &Range<u64>, align: u64) -> Option<Range<u64>> {
    let from = start.checked_add(bytes.start)? / align * align;
    let to = start.checked_add(bytes.end)?.checked_next_multiple_of(align)?;
    let whole = bytes.start < bytes.end && bytes.end <= len;
    (whole && from >= start && to <= start.checked_add(len)?.checked_next_multiple_of(PAGE)?).then_some(from..to)
}

impl Gpu {
    /// `bytes` of a file where they lie, to be read by kernels and copied from. `None` where they do not begin as this device needs
    /// bindings to, or the first or last page is not whole.
    ///
    /// # Errors
    /// What [`Gpu::check_import`] refuses, or pages that the driver does not take.
    pub(crate) fn import(&self, name: &str, pages: &Arc<Pages>, bytes: Range<u64>) -> Result<Option<View>> {
        let align = self.check_import()?;
        let (caps, start) = (self.caps(), pages.start());
        let Some(around) = around(start, pages.len(), &bytes, align) else { return Ok(None) };
        let offset = start + bytes.start;
        if !offset.is_multiple_of(caps.storage_alignment.into()) || around.end - around.start > caps.max_buffer {
            return Ok(None);
        }
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC;
        let size = around.end - around.start;
        let descriptor = wgpu::BufferDescriptor { label: Some(name), size, usage, mapped_at_creation: false };
        let made = self.scoped(name, |device| made(device, &descriptor, around.start, pages.clone()))?;
        let buffer = made.map_err(|why| self.cannot_import(why))?;
        Ok(Some(View { buffer, offset: offset - around.start, size: bytes.end - bytes.start }))
    }

    /// Bytes to which imported memory is aligned.
    ///
    /// # Errors
    /// A device that cannot import, or was opened without the means.
    pub fn check_import(&self) -> Result<u64> {
        alignment(self.device()).map_err(|why| self.cannot_import(why))
    }

    fn cannot_import(&self, why: String) -> Error {
        Error::Import { adapter: self.info().name.clone(), why }
    }
}

/// Opens a device that can import, and may bind at any offset that its adapter allows: tensors begin at multiples of 32 in most
/// files, of 256 (which WebGPU guarantees) in few.
pub(super) async fn open(
    adapter: &wgpu::Adapter,
    descriptor: &mut wgpu::DeviceDescriptor<'_>,
) -> Result<(wgpu::Device, wgpu::Queue)> {
    let offset = &mut descriptor.required_limits.min_storage_buffer_offset_alignment;
    *offset = adapter.limits().min_storage_buffer_offset_alignment.min(*offset);
    let name = adapter.get_info().name;
    match opened(adapter, descriptor) {
        Some(Ok(opened)) => Ok(opened),
        Some(Err(why)) => Err(Error::Import { adapter: name, why }),
        None => adapter.request_device(descriptor).await.map_err(|source| Error::Open { adapter: name, source }),
    }
}

#[cfg(all(feature = "native-io", not(any(target_vendor = "apple", target_family = "wasm"))))]
use vulkan::{alignment, made, opened};

#[cfg(all(feature = "native-io", not(any(target_vendor = "apple", target_family = "wasm"))))]
mod vulkan {
    use super::{Arc, Pages};
    use ash::{ext::external_memory_host, vk};
    use wgpu::hal::{api::Vulkan, vulkan as hal};

    const HOST: vk::ExternalMemoryHandleTypeFlags = vk::ExternalMemoryHandleTypeFlags::HOST_ALLOCATION_EXT;
    const ELSEWHERE: &str = "files are imported on Vulkan and Metal only";

    /// With the extension.
    pub fn opened(
        adapter: &wgpu::Adapter,
        descriptor: &wgpu::DeviceDescriptor,
    ) -> Option<Result<(wgpu::Device, wgpu::Queue), String>> {
        // SAFETY: the adapter is asked and opened, which it outlives.
        let Some(raw) = (unsafe { adapter.as_hal::<Vulkan>() }) else { return Some(Err(ELSEWHERE.into())) };
        if !raw.physical_device_capabilities().supports_extension(external_memory_host::NAME) {
            return Some(Err("its driver lacks VK_EXT_external_memory_host".into()));
        }
        let (features, limits) = (descriptor.required_features, &descriptor.required_limits);
        let more = |args: hal::CreateDeviceCallbackArgs| args.extensions.push(external_memory_host::NAME);
        // SAFETY: as wgpu opens it itself, and an extension that the adapter has.
        let device =
            unsafe { raw.open_with_callback(features, limits, &descriptor.memory_hints, Some(Box::new(more))) };
        drop(raw);
        let opened = device.map_err(|error| error.to_string()).and_then(|device| {
            // SAFETY: of this adapter, opened with the features of the descriptor.
            unsafe { adapter.create_device_from_hal(device, descriptor) }.map_err(|error| error.to_string())
        });
        Some(opened)
    }

    pub fn alignment(device: &wgpu::Device) -> Result<u64, String> {
        // SAFETY: the device is only asked.
        let raw = unsafe { device.as_hal::<Vulkan>() }.ok_or(ELSEWHERE)?;
        if !raw.enabled_device_extensions().contains(&external_memory_host::NAME) {
            return Err("its device was opened without VK_EXT_external_memory_host: `Gpu::importing` opens one with it, an app does \
                        by `open_with_callback` of wgpu-hal's adapter"
                .into());
        }
        let mut host = vk::PhysicalDeviceExternalMemoryHostPropertiesEXT::default();
        let mut all = vk::PhysicalDeviceProperties2::default().push_next(&mut host);
        let instance = raw.shared_instance().raw_instance();
        // SAFETY: the device's own instance; the extension needs Vulkan 1.1, which has this.
        unsafe { instance.get_physical_device_properties2(raw.raw_physical_device(), &mut all) };
        Ok(host.min_imported_host_pointer_alignment.max(super::PAGE))
    }

    /// A buffer of the descriptor's size whose memory begins at `address` of the pages.
    pub fn made(
        device: &wgpu::Device,
        descriptor: &wgpu::BufferDescriptor,
        address: u64,
        pages: Arc<Pages>,
    ) -> Result<wgpu::Buffer, String> {
        // SAFETY: the device is used to make a buffer, and not destroyed.
        let raw = unsafe { device.as_hal::<Vulkan>() }.ok_or(ELSEWHERE)?;
        let vulkan = raw.raw_device().clone();
        let mut external = vk::ExternalMemoryBufferCreateInfo::default().handle_types(HOST);
        let info = vk::BufferCreateInfo::default()
            .size(descriptor.size)
            .usage(vk::BufferUsageFlags::STORAGE_BUFFER | vk::BufferUsageFlags::TRANSFER_SRC)
            .push_next(&mut external);
        // SAFETY: usages that every buffer may have, and a handle type of an extension that the device has.
        let buffer = unsafe { vulkan.create_buffer(&info, None) }.map_err(refused)?;
        let memory = match imported(&raw, buffer, descriptor.size, address) {
            Ok(memory) => memory,
            Err(why) => {
                // SAFETY: of this device, and nobody has seen it.
                unsafe { vulkan.destroy_buffer(buffer, None) };
                return Err(why);
            }
        };
        let let_go = move || {
            // SAFETY: wgpu-hal calls this as it destroys the buffer, so the device lives, and no submit names the buffer any more.
            unsafe {
                vulkan.destroy_buffer(buffer, None);
                vulkan.free_memory(memory, None);
            }
            drop(pages);
        };
        // SAFETY: the buffer lives until `let_go`, and wgpu never maps it, since its usages do not let it.
        let buffer = unsafe { hal::Buffer::from_raw_externally_owned(buffer, Box::new(let_go)) };
        drop(raw);
        // SAFETY: of this device, made for all usages of the descriptor, not empty, and all of it is the file's.
        Ok(unsafe { device.create_buffer_from_hal::<Vulkan>(buffer, descriptor) })
    }

    /// The pages of as many bytes from `address` on as memory, bound to the buffer.
    fn imported(raw: &hal::Device, buffer: vk::Buffer, size: u64, address: u64) -> Result<vk::DeviceMemory, String> {
        let (vulkan, instance) = (raw.raw_device(), raw.shared_instance().raw_instance());
        let host = external_memory_host::Device::new(instance, vulkan);
        let mut properties = vk::MemoryHostPointerPropertiesEXT::default();
        let pointer = address as *mut std::ffi::c_void;
        // SAFETY: pages that are mapped, aligned as the device asks; the buffer is this device's.
        let needs = unsafe {
            let ask = host.fp().get_memory_host_pointer_properties_ext;
            ask(vulkan.handle(), HOST, pointer, &mut properties).result().map_err(refused)?;
            vulkan.get_buffer_memory_requirements(buffer)
        };
        let types = properties.memory_type_bits & needs.memory_type_bits;
        if types == 0 || needs.size > size {
            return Err(format!("{REFUSED} (no memory type of {:#x} for it)", properties.memory_type_bits));
        }
        let mut from = vk::ImportMemoryHostPointerInfoEXT::default().handle_type(HOST).host_pointer(pointer);
        let info = vk::MemoryAllocateInfo::default()
            .allocation_size(size)
            .memory_type_index(types.trailing_zeros())
            .push_next(&mut from);
        // SAFETY: whole pages that stay mapped for as long as the memory lives, of a type that the driver has for them.
        let memory = unsafe { vulkan.allocate_memory(&info, None) }.map_err(refused)?;
        // SAFETY: a buffer without memory, and memory that nobody has seen, large enough for it.
        unsafe { vulkan.bind_buffer_memory(buffer, memory, 0) }.map_err(|error| {
            // SAFETY: as above.
            unsafe { vulkan.free_memory(memory, None) };
            refused(error)
        })?;
        Ok(memory)
    }

    const REFUSED: &str =
        "its driver does not take the pages of a file; loading without import takes memory that it has itself";

    fn refused(error: vk::Result) -> String {
        format!("{REFUSED} ({error})")
    }
}

#[cfg(all(feature = "native-io", target_vendor = "apple"))]
use metal::{alignment, made, opened};

#[cfg(all(feature = "native-io", target_vendor = "apple"))]
mod metal {
    use super::{Arc, Pages};
    use block2::RcBlock;
    use objc2_metal::{MTLDevice, MTLResourceOptions};
    use std::ffi::c_void;
    use std::ptr::NonNull;
    use wgpu::hal::{api::Metal, metal::Device};

    /// As any other: Metal needs nothing for it.
    pub fn opened(
        _: &wgpu::Adapter,
        _: &wgpu::DeviceDescriptor,
    ) -> Option<Result<(wgpu::Device, wgpu::Queue), String>> {
        None
    }

    /// A page of Apple's processors, and four of Intel's.
    pub fn alignment(_: &wgpu::Device) -> Result<u64, String> {
        Ok(16 << 10)
    }

    pub fn made(
        device: &wgpu::Device,
        descriptor: &wgpu::BufferDescriptor,
        address: u64,
        pages: Arc<Pages>,
    ) -> Result<wgpu::Buffer, String> {
        // SAFETY: the device is used to make a buffer, and not destroyed.
        let raw = unsafe { device.as_hal::<Metal>() }.ok_or("files are imported on Vulkan and Metal only")?;
        let start = NonNull::new(address as *mut c_void).expect("pages that are mapped");
        // Metal lets go of the block, and with it of the pages, behind the buffer.
        let let_go = RcBlock::new(move |_: NonNull<c_void>, _: usize| {
            let _ = &pages;
        });
        let options = MTLResourceOptions::StorageModeShared;
        // SAFETY: whole pages, which stay mapped for as long as the block lives.
        let buffer = unsafe {
            raw.raw_device().newBufferWithBytesNoCopy_length_options_deallocator(
                start,
                descriptor.size as usize,
                options,
                Some(&let_go),
            )
        };
        let buffer = buffer.ok_or("Metal does not take the pages of this file; loading without import copies them")?;
        // SAFETY: a buffer of so many bytes; of this device, made for all usages of the descriptor, and all of it is the file's.
        Ok(unsafe {
            let buffer = Device::buffer_from_raw(buffer, descriptor.size);
            drop(raw);
            device.create_buffer_from_hal::<Metal>(buffer, descriptor)
        })
    }
}

#[cfg(any(not(feature = "native-io"), target_family = "wasm"))]
use nowhere::{alignment, made, opened};

#[cfg(any(not(feature = "native-io"), target_family = "wasm"))]
mod nowhere {
    use super::{Arc, Pages};

    const WHY: &str = "halogen was built without `native-io`";

    pub fn opened(
        _: &wgpu::Adapter,
        _: &wgpu::DeviceDescriptor,
    ) -> Option<Result<(wgpu::Device, wgpu::Queue), String>> {
        Some(Err(WHY.into()))
    }

    pub fn alignment(_: &wgpu::Device) -> Result<u64, String> {
        Err(WHY.into())
    }

    pub fn made(_: &wgpu::Device, _: &wgpu::BufferDescriptor, _: u64, _: Arc<Pages>) -> Result<wgpu::Buffer, String> {
        Err(WHY.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_pages_are_taken() {
        let (start, len) = (0x7000_0000, 3 * PAGE + 100);
        let found =
            |bytes, align| around(start, len, &bytes, align).map(|r| (r.start - start) / PAGE..(r.end - start) / PAGE);
        assert_eq!(found(0..1, PAGE), Some(0..1));
        assert_eq!(found(PAGE - 1..PAGE + 1, PAGE), Some(0..2));
        // The last page is mapped to its end, whatever the file has of it.
        assert_eq!(found(3 * PAGE..len, PAGE), Some(3..4));
        assert_eq!(found(0..len, PAGE), Some(0..4));
        for past in [0..len + 1, len..len + 1, len..u64::MAX, 0..0, 8..8, u64::MAX..u64::MAX] {
            assert_eq!(found(past.clone(), PAGE), None, "{past:?}");
        }
        // A device whose pages are larger than the system's.
        assert_eq!(found(0..2 * PAGE, 2 * PAGE), Some(0..2));
        assert_eq!(found(3 * PAGE..len, 4 * PAGE), Some(0..4));
        assert_eq!(found(3 * PAGE..len, 8 * PAGE), None);
        assert_eq!(around(start + PAGE, len, &(0..1), 2 * PAGE), None);
    }
}
