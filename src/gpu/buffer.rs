//! Buffers and the parts of them that kernels see.

use super::{Error, Gpu, Result};
use wgpu::BufferUsages as Usage;

/// A part of a buffer, as one binding sees it. Cloning shares the buffer.
#[derive(Clone, Debug)]
pub struct View {
    pub buffer: wgpu::Buffer,
    /// Bytes from the buffer's start; aligned as the device's storage bindings need.
    pub offset: u64,
    /// Bytes, more than zero.
    pub size: u64,
}

impl View {
    /// The part of this view from `offset`, `size` bytes long.
    pub fn slice(&self, offset: u64, size: u64) -> View {
        assert!(offset + size <= self.size, "slice {offset}+{size} of a view of {} bytes", self.size);
        View { buffer: self.buffer.clone(), offset: self.offset + offset, size }
    }

    pub(super) fn binding(&self) -> wgpu::BindingResource<'_> {
        wgpu::BindingResource::Buffer(wgpu::BufferBinding {
            buffer: &self.buffer,
            offset: self.offset,
            size: wgpu::BufferSize::new(self.size),
        })
    }
}

impl Gpu {
    /// A zeroed storage buffer of `bytes` (rounded up to 16), readable and writable by kernels and copies.
    pub fn buffer(&self, name: &str, bytes: u64) -> Result<View> {
        self.buffer_with(name, bytes, Usage::STORAGE | Usage::COPY_SRC | Usage::COPY_DST)
    }

    /// As [`Gpu::buffer`], with usages of the caller's choice.
    pub fn buffer_with(&self, name: &str, bytes: u64, usage: Usage) -> Result<View> {
        let size = self.buffer_size(name, bytes, usage)?;
        let descriptor = wgpu::BufferDescriptor { label: Some(name), size, usage, mapped_at_creation: false };
        let buffer = self.scoped(name, |device| device.create_buffer(&descriptor))?;
        Ok(View { buffer, offset: 0, size })
    }

    /// Fails where a storage buffer of `bytes` is larger than the device can have or bind.
    pub fn check_size(&self, name: &str, bytes: u64) -> Result<()> {
        self.buffer_size(name, bytes, Usage::STORAGE).map(|_| ())
    }

    pub(super) fn buffer_size(&self, name: &str, bytes: u64, usage: Usage) -> Result<u64> {
        let size = bytes.clamp(16, u64::MAX - 16).next_multiple_of(16);
        let caps = self.caps();
        for (limit, what) in [(caps.max_buffer, "a buffer"), (caps.max_binding, "a storage binding")] {
            if size > limit && (what == "a buffer" || usage.contains(Usage::STORAGE)) {
                return Err(Error::TooLarge { name: name.into(), bytes: size, limit, what });
            }
        }
        Ok(size)
    }

    /// Queues copies from views to views of the same size, before whatever is submitted next.
    pub fn copy(&self, copies: &[(View, View)]) -> Result<()> {
        self.scoped("copy", |device| {
            let mut encoder = device.create_command_encoder(&Default::default());
            for (from, to) in copies {
                encoder.copy_buffer_to_buffer(&from.buffer, from.offset, &to.buffer, to.offset, from.size);
            }
            self.queue().submit([encoder.finish()]);
        })
    }

    /// A storage buffer that holds `data`.
    pub fn upload<T: bytemuck::NoUninit>(&self, name: &str, data: &[T]) -> Result<View> {
        let bytes: &[u8] = bytemuck::cast_slice(data);
        let view = self.buffer(name, bytes.len() as u64)?;
        self.write(&view, 0, bytes)?;
        Ok(view)
    }

    /// Queues a write of `bytes` at `offset` of a view, before whatever is submitted next. Lengths that are no
    /// multiple of 4 are padded with zeros.
    ///
    /// # Errors
    /// No memory to stage them in, or a lost device.
    pub fn write(&self, view: &View, offset: u64, bytes: &[u8]) -> Result<()> {
        assert!(offset + bytes.len() as u64 <= view.size, "write past the end of a view");
        let whole = bytes.len() & !3;
        self.scoped("write", |_| {
            if whole > 0 {
                self.queue().write_buffer(&view.buffer, view.offset + offset, &bytes[..whole]);
            }
            if whole < bytes.len() {
                let mut last = [0u8; 4];
                last[..bytes.len() - whole].copy_from_slice(&bytes[whole..]);
                self.queue().write_buffer(&view.buffer, view.offset + offset + whole as u64, &last);
            }
        })
    }

    /// Hands queued writes to the device.
    pub fn flush(&self) -> Result<()> {
        self.scoped("flush", |_| self.queue().submit([])).map(|_| ())
    }
}
