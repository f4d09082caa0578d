//! Submitting recordings and reading results back.

use super::{Error, Gpu, Mark, Recording, Result, View};
use crate::clock::{self, Instant};
use std::ops::Range;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};

/// Two timestamps of a submit: one of a few places in a query set.
pub struct Stamp {
    queries: wgpu::QuerySet,
    first: u32,
    /// u64 [2]
    pub(super) ticks: View,
}

impl Stamp {
    /// So many. None where the device has no timestamps.
    pub(super) fn several(gpu: &Gpu, count: u32) -> Result<Vec<Stamp>> {
        if !gpu.device().features().contains(wgpu::Features::TIMESTAMP_QUERY) {
            return Ok(Vec::new());
        }
        let each = wgpu::QUERY_RESOLVE_BUFFER_ALIGNMENT;
        let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
        let resolved = gpu.buffer_with("timestamps", u64::from(count) * each, usage)?;
        let descriptor =
            wgpu::QuerySetDescriptor { label: Some("timestamps"), ty: wgpu::QueryType::Timestamp, count: 2 * count };
        let queries = gpu.scoped("timestamps", |device| device.create_query_set(&descriptor))?;
        let stamp = |i: u32| {
            let ticks = resolved.slice(u64::from(i) * each, 16);
            Stamp { queries: queries.clone(), first: 2 * i, ticks }
        };
        Ok((0..count).map(stamp).collect())
    }

    fn writes(&self) -> wgpu::ComputePassTimestampWrites<'_> {
        wgpu::ComputePassTimestampWrites {
            query_set: &self.queries,
            beginning_of_pass_write_index: Some(self.first),
            end_of_pass_write_index: Some(self.first + 1),
        }
    }

    fn resolve(&self, encoder: &mut wgpu::CommandEncoder) {
        let queries = self.first..self.first + 2;
        encoder.resolve_query_set(&self.queries, queries, &self.ticks.buffer, self.ticks.offset);
    }
}

/// The time that a submit takes on the device, on its way back to the host.
pub struct Timed {
    ticks: Readback,
    _stamp: Stamp,
}

impl Timed {
    /// Whether the submit has ended; after [`Gpu::poll`].
    pub fn is_ready(&self) -> bool {
        self.ticks.is_ready()
    }

    /// Seconds, of one that has ended.
    ///
    /// # Errors
    /// A lost device.
    pub fn seconds(self) -> Result<f64> {
        let period = f64::from(self.ticks.gpu.queue().get_timestamp_period());
        Ok(elapsed(&self.ticks.take()?, period))
    }
}

/// Seconds between two timestamps.
pub(super) fn elapsed(ticks: &[u8], period_nanos: f64) -> f64 {
    let ticks: Vec<u64> = bytemuck::pod_collect_to_vec(ticks);
    ticks[1].saturating_sub(ticks[0]) as f64 * period_nanos / 1e9
}

/// A buffer on its way back to the host.
pub struct Readback {
    gpu: Gpu,
    buffer: wgpu::Buffer,
    status: Arc<AtomicU8>,
    submission: Option<wgpu::SubmissionIndex>,
}

/// Buffers that have been read back and wait to be used again.
pub(super) type Spares = Arc<Mutex<Vec<wgpu::Buffer>>>;
/// Larger buffers, logits say, are not kept; nor are more than these.
const SPARE_BYTES: u64 = 4096;
const SPARES: usize = 32;

const WAITING: u8 = 0;
const MAPPED: u8 = 1;
const FAILED: u8 = 2;

impl Gpu {
    /// Submits a part of a recording in one pass, then copies of views to fresh read-back buffers.
    pub fn submit(&self, recording: &Recording, range: Range<usize>, read: &[&View]) -> Result<Vec<Readback>> {
        self.submit_all(&[(recording, range)], read)
    }

    /// Submits parts of recordings in order, in one submit, then copies of views to read-back buffers.
    pub fn submit_all(&self, parts: &[(&Recording, Range<usize>)], read: &[&View]) -> Result<Vec<Readback>> {
        self.scoped("submit", |device| {
            let start = clock::now();
            let mut encoder = device.create_command_encoder(&Default::default());
            {
                let mut pass = encoder.begin_compute_pass(&Default::default());
                for (recording, range) in parts {
                    recording.encode(range.clone(), &mut pass);
                }
            }
            self.finish_submit(encoder, read, start)
        })
    }

    /// Submits a recording from a point to another, within dispatches or between them, then copies of views to read-back
    /// buffers. `stamp` times it.
    pub fn submit_part(
        &self,
        recording: &Recording,
        range: Range<Mark>,
        stamp: Option<&Stamp>,
        read: &[&View],
    ) -> Result<Vec<Readback>> {
        self.scoped("submit", |device| {
            let start = clock::now();
            let mut encoder = device.create_command_encoder(&Default::default());
            let timestamp_writes = stamp.map(Stamp::writes);
            let descriptor = wgpu::ComputePassDescriptor { label: None, timestamp_writes };
            recording.encode_part(self.queue(), range, &mut encoder.begin_compute_pass(&descriptor));
            if let Some(stamp) = stamp {
                stamp.resolve(&mut encoder);
            }
            self.finish_submit(encoder, read, start)
        })
    }

    /// Submits so many of a recording's first dispatches and has the device time them; `None`, and nothing is submitted, where it has
    /// no timestamps.
    ///
    /// # Errors
    /// A lost device, or no memory.
    pub fn submit_timed(&self, recording: &Recording, dispatches: usize) -> Result<Option<Timed>> {
        let Some(stamp) = Stamp::several(self, 1)?.pop() else { return Ok(None) };
        let first = Mark::default()..dispatches.into();
        let ticks = self.submit_part(recording, first, Some(&stamp), &[&stamp.ticks])?.remove(0);
        Ok(Some(Timed { ticks, _stamp: stamp }))
    }

    /// Copies views to the host, after all that was submitted before.
    pub fn read(&self, views: &[&View]) -> Result<Vec<Readback>> {
        self.scoped("read", |device| {
            self.finish_submit(device.create_command_encoder(&Default::default()), views, clock::now())
        })
    }

    /// Copies a view to the host and waits for it. `T` divides the view's bytes.
    pub fn blocking_read<T: bytemuck::Pod>(&self, view: &View) -> Result<Vec<T>> {
        let readback = self.read(&[view])?.remove(0);
        Ok(bytemuck::pod_collect_to_vec(&readback.blocking_take()?))
    }

    pub(super) fn finish_submit(
        &self,
        mut encoder: wgpu::CommandEncoder,
        read: &[&View],
        start: Instant,
    ) -> Vec<Readback> {
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let mut readbacks: Vec<Readback> = read
            .iter()
            .map(|view| {
                let buffer = self.readback_buffer(view.size, usage);
                encoder.copy_buffer_to_buffer(&view.buffer, view.offset, &buffer, 0, view.size);
                Readback { gpu: self.clone(), buffer, status: Arc::new(AtomicU8::new(WAITING)), submission: None }
            })
            .collect();
        let commands = encoder.finish();
        self.add_encode_time(start.elapsed());
        let submission = self.queue().submit([commands]);
        for readback in &mut readbacks {
            readback.submission = Some(submission.clone());
            let (status, alarm) = (readback.status.clone(), self.alarm().clone());
            readback.buffer.map_async(wgpu::MapMode::Read, .., move |result| {
                status.store(if result.is_ok() { MAPPED } else { FAILED }, Ordering::Release);
                alarm.ring();
            });
        }
        readbacks
    }

    fn readback_buffer(&self, size: u64, usage: wgpu::BufferUsages) -> wgpu::Buffer {
        let mut spares = self.spares().lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(index) = spares.iter().position(|b| b.size() == size) {
            return spares.swap_remove(index);
        }
        let descriptor = wgpu::BufferDescriptor { label: Some("read back"), size, usage, mapped_at_creation: false };
        self.device().create_buffer(&descriptor)
    }

    /// Lets go of read-back buffers that wait to be used again.
    pub(crate) fn drop_spares(&self) {
        self.spares().lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clear();
    }

    /// Runs whatever callbacks are due, without waiting.
    pub fn poll(&self) -> Result<()> {
        #[allow(clippy::disallowed_methods, reason = "this one does not wait")]
        self.device().poll(wgpu::PollType::Poll).map_err(|e| Error::Lost(e.to_string()))?;
        self.late_errors()
    }

    /// Waits until all that was submitted has run.
    #[allow(clippy::disallowed_methods, reason = "its name says that it waits")]
    pub fn blocking_wait(&self) -> Result<()> {
        let done = self.device().poll(wgpu::PollType::wait_indefinitely());
        done.map(|_| ()).map_err(|e| Error::Lost(e.to_string()))
    }
}

impl Readback {
    /// Whether the bytes have arrived; after [`Gpu::poll`].
    pub fn is_ready(&self) -> bool {
        self.status.load(Ordering::Acquire) != WAITING
    }

    /// The bytes of a read-back that has arrived.
    pub fn take(self) -> Result<Vec<u8>> {
        match self.status.load(Ordering::Acquire) {
            MAPPED => {
                let range = self.buffer.get_mapped_range(..).map_err(|e| Error::Lost(e.to_string()))?;
                let bytes = range.to_vec();
                drop(range);
                self.buffer.unmap();
                let mut spares = self.gpu.spares().lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                if self.buffer.size() <= SPARE_BYTES && spares.len() < SPARES {
                    spares.push(self.buffer);
                }
                Ok(bytes)
            }
            WAITING => Err(Error::Lost("a read-back was taken before it had arrived".into())),
            _ => Err(Error::Lost("mapping a read-back failed".into())),
        }
    }

    /// Waits for the submission that fills this read-back, and takes its bytes.
    #[allow(clippy::disallowed_methods, reason = "its name says that it waits")]
    pub fn blocking_take(self) -> Result<Vec<u8>> {
        while !self.is_ready() {
            let wait = wgpu::PollType::Wait { submission_index: self.submission.clone(), timeout: None };
            self.gpu.device().poll(wait).map_err(|e| Error::Lost(e.to_string()))?;
            // Another thread's poll may have taken the callback and not called it yet.
            std::thread::yield_now();
        }
        self.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_counted_in_their_period() {
        let ticks: Vec<u8> = [1000u64, 3000].iter().flat_map(|t| t.to_le_bytes()).collect();
        assert!((elapsed(&ticks, 0.5) - 1e-6).abs() < 1e-15);
        let back: Vec<u8> = [3000u64, 1000].iter().flat_map(|t| t.to_le_bytes()).collect();
        assert_eq!(elapsed(&back, 0.5), 0.0);
    }
}
