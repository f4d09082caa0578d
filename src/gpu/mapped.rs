//! Buffers in memory that host and device share, which the host writes where the device will read.
//!
//! wgpu maps storage buffers too (`MAPPABLE_PRIMARY_BUFFERS`), but fills what it maps for the first time with zeros, on the thread
//! that creates or polls, and keeps reads from being made into its write-only views. So these buffers are made one floor below,
//! by wgpu-hal, as wgpu itself would make a mappable one, and wgpu is told that they are initialised, which the loader sees to.

use super::{Error, Gpu, Result, View};
use std::ptr::NonNull;
use wgpu::BufferUsages as Usage;

/// A buffer that the host is to write, all of it and each byte once, before anything is submitted that names it.
pub(crate) struct Mapped {
    buffer: wgpu::Buffer,
    memory: NonNull<u8>,
    size: u64,
    /// The bytes before it have been given out.
    given: u64,
}

/// Bytes of a mapped buffer, for whoever writes them. They stay while this does.
pub(crate) struct Room {
    bytes: NonNull<[u8]>,
    _buffer: wgpu::Buffer,
}

// SAFETY: a room is the only way to its bytes, as a `Box<[u8]>` is; the buffer that it keeps is Send wherever rooms can be made.
unsafe impl Send for Room {}

impl Mapped {
    /// The bytes from `offset` on, which must be the first that nobody was given yet.
    pub fn room(&mut self, offset: u64, len: usize) -> Room {
        assert!(
            offset == self.given && len as u64 <= self.size - offset,
            "each byte of a mapped buffer is given out once"
        );
        self.given += len as u64;
        // SAFETY: within the mapping, by the line above.
        let start = unsafe { self.memory.add(offset as usize) };
        Room { bytes: NonNull::slice_from_raw_parts(start, len), _buffer: self.buffer.clone() }
    }

    /// Whether a view is a part of the buffer.
    pub fn is_of(&self, view: &View) -> bool {
        self.buffer == view.buffer
    }

    /// Whether all bytes have been given out.
    pub fn is_given(&self) -> bool {
        self.given == self.size
    }
}

impl AsMut<[u8]> for Room {
    fn as_mut(&mut self) -> &mut [u8] {
        // SAFETY: mapped for as long as the buffer lives, which this keeps; given to this room alone, since `given` only grows;
        // and not read by the device, since nothing that names the buffer is submitted before it is filled. What a driver hands
        // out counts as initialised: its contents are the driver's.
        unsafe { self.bytes.as_mut() }
    }
}

impl Gpu {
    /// A storage buffer of `bytes` (rounded up to 16) in memory that the host writes directly. Its contents are not defined until
    /// all of it was written: whoever asks for it sees to that before anything is submitted that names it.
    ///
    /// # Errors
    /// A device whose backend has none (wanted: Vulkan, Metal), no memory, or a size beyond the device's limits.
    pub(crate) fn mapped(&self, name: &str, bytes: u64) -> Result<(View, Mapped)> {
        self.mapped_for(name, bytes, wgpu::BufferUses::MAP_WRITE)
    }

    /// As [`Gpu::mapped`], in the host's own memory where the device has another: what the host is to read is not put there.
    ///
    /// # Errors
    /// As [`Gpu::mapped`].
    pub(crate) fn mapped_on_host(&self, name: &str, bytes: u64) -> Result<(View, Mapped)> {
        self.mapped_for(name, bytes, wgpu::BufferUses::MAP_READ)
    }

    fn mapped_for(&self, name: &str, bytes: u64, map: wgpu::BufferUses) -> Result<(View, Mapped)> {
        let usage = Usage::STORAGE | Usage::COPY_SRC | Usage::COPY_DST;
        let size = self.buffer_size(name, bytes, usage)?;
        let descriptor = wgpu::BufferDescriptor { label: Some(name), size, usage, mapped_at_creation: false };
        let (buffer, memory) = self.scoped(name, |device| made(device, &descriptor, map))??;
        let view = View { buffer: buffer.clone(), offset: 0, size };
        Ok((view, Mapped { buffer, memory, size, given: 0 }))
    }

    /// Whether [`Gpu::mapped`] can be had.
    pub(crate) fn has_mapped(&self) -> bool {
        let backend = if cfg!(target_vendor = "apple") { wgpu::Backend::Metal } else { wgpu::Backend::Vulkan };
        self.info().backend == backend
    }
}

#[cfg(target_vendor = "apple")]
type Api = wgpu::hal::api::Metal;
#[cfg(not(any(target_vendor = "apple", target_family = "wasm")))]
type Api = wgpu::hal::api::Vulkan;

#[cfg(target_family = "wasm")]
fn made(
    _device: &wgpu::Device,
    descriptor: &wgpu::BufferDescriptor,
    _map: wgpu::BufferUses,
) -> Result<(wgpu::Buffer, NonNull<u8>)> {
    Err(rejected(descriptor, "a browser maps no storage buffers"))
}

fn rejected(descriptor: &wgpu::BufferDescriptor, message: impl ToString) -> Error {
    Error::Rejected { what: descriptor.label.unwrap_or_default().into(), message: message.to_string() }
}

/// A buffer and the start of its memory, which stays mapped as long as the buffer lives.
#[cfg(not(target_family = "wasm"))]
fn made(
    device: &wgpu::Device,
    descriptor: &wgpu::BufferDescriptor,
    map: wgpu::BufferUses,
) -> Result<(wgpu::Buffer, NonNull<u8>)> {
    use wgpu::BufferUses as Uses;
    use wgpu::hal::{BufferDescriptor, Device, DeviceError, MemoryFlags};
    let failed = |error: DeviceError| match error {
        DeviceError::OutOfMemory => Error::OutOfMemory(format!("{}: {error}", descriptor.label.unwrap_or_default())),
        error => rejected(descriptor, error),
    };
    // SAFETY: the device is used to make a buffer, and not destroyed.
    let Some(raw) = (unsafe { device.as_hal::<Api>() }) else {
        return Err(rejected(descriptor, "weights are written in place on Vulkan and Metal only"));
    };
    let usage = map | Uses::STORAGE_READ_ONLY | Uses::STORAGE_READ_WRITE | Uses::COPY_SRC | Uses::COPY_DST;
    let (label, size, memory_flags) = (descriptor.label, descriptor.size, MemoryFlags::empty());
    // SAFETY: a size above zero and within the device's limits, which `buffer_size` has checked.
    let buffer =
        unsafe { raw.create_buffer(&BufferDescriptor { label, size, usage, memory_flags }) }.map_err(failed)?;
    // SAFETY: the buffer is mappable, this device's, and mapped this once. Vulkan's and Metal's stay mapped until they are destroyed,
    // and there is nothing that unmapping would do.
    let mapping = match unsafe { raw.map_buffer(&buffer, 0..size) } {
        Ok(mapping) if mapping.is_coherent => Ok(mapping.ptr),
        Ok(_) => Err(rejected(descriptor, "its memory is not coherent")),
        Err(error) => Err(failed(error)),
    };
    match mapping {
        // SAFETY: of this device, made for all usages of the descriptor, not empty; the caller sees to its contents.
        Ok(memory) => Ok((unsafe { device.create_buffer_from_hal::<Api>(buffer, descriptor) }, memory)),
        Err(error) => {
            // SAFETY: of this device, and nobody has seen it.
            unsafe { raw.destroy_buffer(buffer) };
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::gpu::{Gpu, Selector};
    use std::thread;

    #[test]
    fn what_threads_write_into_rooms_is_what_the_device_reads() {
        let gpu = pollster::block_on(Gpu::new(Selector::Best)).expect("an adapter");
        if !gpu.has_mapped() {
            eprintln!("skipped: {} has no memory that the host writes directly", gpu.info().name);
            return;
        }
        let (view, mut mapped) = gpu.mapped("mapped", 3 << 20).expect("a buffer");
        let rooms: Vec<_> = (0..3).map(|i| mapped.room(i << 20, 1 << 20)).collect();
        assert!(mapped.is_given());
        thread::scope(|scope| {
            for (i, mut room) in rooms.into_iter().enumerate() {
                scope.spawn(move || {
                    room.as_mut().iter_mut().enumerate().for_each(|(j, byte)| *byte = (i * 7 + j) as u8)
                });
            }
        });
        let found = gpu.blocking_read::<u8>(&view).expect("a buffer");
        assert!(found.iter().enumerate().all(|(at, byte)| *byte == ((at >> 20) * 7 + (at & 0xfffff)) as u8));
        let copy = gpu.buffer("copy", 3 << 20).expect("a buffer");
        gpu.copy(&[(view, copy.clone())]).expect("a copy");
        assert_eq!(gpu.blocking_read::<u8>(&copy).expect("a buffer"), found);
    }

    #[test]
    #[should_panic = "given out once"]
    fn no_byte_is_given_twice() {
        let gpu = pollster::block_on(Gpu::new(Selector::Best)).expect("an adapter");
        assert!(gpu.has_mapped(), "given out once, or not at all");
        let (_, mut mapped) = gpu.mapped("mapped", 64).expect("a buffer");
        let _room = mapped.room(0, 32);
        mapped.room(16, 16);
    }
}
