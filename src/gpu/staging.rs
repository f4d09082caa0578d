//! Bytes to the device through a ring of mapped buffers, which are used again: memory that the system has handed out once is
//! not handed out, and zeroed, for every write.

use super::{Error, Gpu, Result, View};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// Writes on their way, in a bounded number of buffers.
pub struct Staging {
    gpu: Gpu,
    /// Of each buffer, a multiple of 4.
    bytes: usize,
    most: usize,
    /// Oldest first.
    slots: VecDeque<Slot>,
}

struct Slot {
    buffer: wgpu::Buffer,
    state: Arc<AtomicU8>,
}

const BUSY: u8 = 0;
const MAPPED: u8 = 1;
const FAILED: u8 = 2;

impl Staging {
    /// At most `most` buffers of `bytes` (rounded up to 4), made as they are needed.
    pub fn new(gpu: &Gpu, most: usize, bytes: usize) -> Staging {
        Staging { gpu: gpu.clone(), bytes: bytes.max(4).next_multiple_of(4), most: most.max(1), slots: VecDeque::new() }
    }

    /// Queues a write of `bytes` at `offset` of a view, and waits for a buffer where all are on their way. Lengths that are no
    /// multiple of 4 are padded with zeros.
    ///
    /// # Errors
    /// No memory for a buffer, or a lost device.
    pub async fn write(&mut self, view: &View, offset: u64, bytes: &[u8]) -> Result<()> {
        assert!(offset + bytes.len() as u64 <= view.size, "write past the end of a view");
        for (piece, at) in bytes.chunks(self.bytes).zip((offset..).step_by(self.bytes)) {
            let slot = self.free().await?;
            self.send(&slot, view, at, piece)?;
            self.slots.push_back(slot);
        }
        Ok(())
    }

    /// A mapped buffer.
    async fn free(&mut self) -> Result<Slot> {
        let idle = |slot: &Slot| slot.state.load(Ordering::Acquire) != BUSY;
        if !self.slots.front().is_some_and(idle) && self.slots.len() < self.most {
            return self.made();
        }
        let slot = self.slots.pop_front().expect("a ring has buffers");
        self.gpu.until(|| idle(&slot)).await?;
        match slot.state.load(Ordering::Acquire) {
            MAPPED => Ok(slot),
            _ => Err(Error::Lost("mapping a staging buffer failed".into())),
        }
    }

    fn made(&self) -> Result<Slot> {
        let usage = wgpu::BufferUsages::MAP_WRITE | wgpu::BufferUsages::COPY_SRC;
        let size = self.bytes as u64;
        let descriptor = wgpu::BufferDescriptor { label: Some("staging"), size, usage, mapped_at_creation: true };
        let buffer = self.gpu.scoped("staging", |device| device.create_buffer(&descriptor))?;
        Ok(Slot { buffer, state: Arc::new(AtomicU8::new(MAPPED)) })
    }

    fn send(&self, slot: &Slot, view: &View, at: u64, piece: &[u8]) -> Result<()> {
        let size = piece.len().next_multiple_of(4);
        let range = slot.buffer.get_mapped_range_mut(..size as u64);
        let mut range = range.map_err(|error| Error::Lost(error.to_string()))?;
        range.slice(..piece.len()).copy_from_slice(piece);
        range.slice(piece.len()..).fill(0);
        drop(range);
        slot.buffer.unmap();
        self.gpu.scoped("staging", |device| {
            let mut encoder = device.create_command_encoder(&Default::default());
            encoder.copy_buffer_to_buffer(&slot.buffer, 0, &view.buffer, view.offset + at, size as u64);
            self.gpu.queue().submit([encoder.finish()]);
        })?;
        slot.state.store(BUSY, Ordering::Release);
        let (state, alarm) = (slot.state.clone(), self.gpu.alarm().clone());
        slot.buffer.map_async(wgpu::MapMode::Write, .., move |mapped| {
            state.store(if mapped.is_ok() { MAPPED } else { FAILED }, Ordering::Release);
            alarm.ring();
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Selector;

    #[test]
    fn what_goes_through_a_few_buffers_many_times_arrives() {
        let gpu = pollster::block_on(Gpu::new(Selector::Best)).expect("an adapter");
        let bytes: Vec<u8> = (0..10_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let view = gpu.buffer("written", bytes.len() as u64).expect("a buffer");
        let mut staging = Staging::new(&gpu, 3, 62);
        for (from, to) in [(0, 4000), (4000, 4004), (4004, 4004), (4004, 9998)] {
            pollster::block_on(staging.write(&view, from as u64, &bytes[from..to])).expect("a write");
        }
        assert!((1..=3).contains(&staging.slots.len()));
        let found = gpu.blocking_read::<u8>(&view).expect("a buffer");
        assert!(found[..9998] == bytes[..9998] && found[9998..10_000] == [0; 2]);
    }
}
