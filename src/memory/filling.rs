//! Weights from the file into their buffers: several positioned reads on their way, rows re-laid, one copy to the GPU.

use super::{Error, Result, System, Weights};
use crate::boxed::BoxStream;
use crate::clock;
use crate::formats::Format;
use crate::gguf::{Gguf, TensorInfo};
use crate::gpu::{Gpu, Staging, View};
use crate::ops::Shard;
use futures::StreamExt;
use futures::stream;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

/// Reads on their way at once: enough that a reader which sees a few of them at a time is never idle.
pub(super) const READS: usize = 16;
/// Bytes read, re-laid and handed to the queue at once.
const CHUNK: usize = 4 << 20;
/// Chunks on their way from the host to the device at once.
const STAGED: usize = 16;

/// How far a load has come.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Bytes read from the file.
    pub bytes: u64,
    /// Bytes that will be read.
    pub total: u64,
}

/// What was read, and how.
#[derive(Clone, Copy, Debug)]
pub struct Filled {
    /// Bytes of the file.
    pub bytes: u64,
    /// Of all readers together, what laying out rows took.
    pub layout: Duration,
}

/// Laying out rows, by several readers.
#[derive(Default)]
struct Layout {
    /// All together.
    nanos: AtomicU64,
    /// Vectors to be used again: memory that is fresh costs more than what is written to it.
    spares: Mutex<Vec<Vec<u8>>>,
}

impl Layout {
    fn spares(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.spares.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Of any length and contents.
    fn vector(&self) -> Vec<u8> {
        self.spares().pop().unwrap_or_default()
    }

    fn give_back(&self, vector: Vec<u8>) {
        let mut spares = self.spares();
        if spares.len() < READS {
            spares.push(vector);
        }
    }
}

/// Consecutive rows of a tensor.
#[derive(Clone)]
pub(super) struct Rows {
    pub tensor: Arc<TensorInfo>,
    pub first: usize,
    pub count: usize,
}

/// Consecutive rows of a tensor, and where they go.
#[derive(Clone)]
pub(super) struct RowCopy {
    pub tensor: Arc<TensorInfo>,
    pub format: Format,
    pub columns: usize,
    pub first_row: usize,
    pub rows: usize,
    pub view: View,
    /// The byte in the view.
    pub to: u64,
}

impl RowCopy {
    /// Bytes in the file.
    pub fn bytes(&self) -> usize {
        self.rows * self.format.row_bytes(self.columns)
    }

    /// Where they begin in the tensor.
    fn offset(&self) -> u64 {
        (self.first_row * self.format.row_bytes(self.columns)) as u64
    }

    /// Bytes on the device.
    pub fn laid_bytes(&self) -> usize {
        self.rows * self.format.device_row_bytes(self.columns)
    }

    /// Starts to read the rows; they arrive in the device's layout.
    fn read(&self, gguf: &Gguf, layout: &Arc<Layout>) -> impl Future<Output = Result<Vec<u8>>> + use<> {
        let RowCopy { format, columns, rows, .. } = *self;
        let layout = layout.clone();
        let reading = gguf.read(&self.tensor, self.offset(), self.bytes(), move |bytes| {
            if format.lies_as_in_files(columns) {
                return bytes;
            }
            let start = clock::now();
            let mut laid = layout.vector();
            laid.resize(rows * format.device_row_bytes(columns), 0);
            format.relay(columns, &bytes, &mut laid);
            layout.nanos.fetch_add(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
            laid
        });
        async { Ok(reading.await?) }
    }
}

/// How `units` of so many bytes each lie in shards of at most `limit` bytes, as few as there can be: units of each shard.
pub(super) fn cut(units: usize, unit_bytes: u64, limit: u64) -> impl Iterator<Item = Range<usize>> {
    let per_shard = ((limit / unit_bytes) as usize).clamp(1, units.max(1));
    (0..units).step_by(per_shard).map(move |first| first..units.min(first + per_shard))
}

/// Consecutive rows of a part that go to one shard.
struct Run {
    part: usize,
    /// Of the part.
    first: usize,
    rows: usize,
    shard: usize,
    /// The row in the shard.
    at: usize,
}

/// Rows of parts of so many rows, one after another, into shards of `per_shard` rows each (the last may have fewer), from the row
/// `to_row` of all shards on; `most` rows at once.
fn runs(parts: impl IntoIterator<Item = usize>, per_shard: usize, to_row: usize, most: usize) -> Vec<Run> {
    let (mut runs, mut row) = (Vec::new(), to_row);
    for (part, count) in parts.into_iter().enumerate() {
        let mut first = 0;
        while first < count {
            let (shard, at) = (row / per_shard, row % per_shard);
            let rows = most.min(count - first).min(per_shard - at);
            runs.push(Run { part, first, rows, shard, at });
            (first, row) = (first + rows, row + rows);
        }
    }
    runs
}

/// The copies of `parts`, one after another, into shards of `unit` rows each, from the row `to_row` of all shards on.
pub(super) fn copies(
    parts: &[Rows],
    shards: &[Shard],
    to_row: usize,
    unit: usize,
    format: Format,
    columns: usize,
) -> Vec<RowCopy> {
    let (row_bytes, most) = (format.device_row_bytes(columns), (CHUNK / format.row_bytes(columns)).max(1));
    let copy = |run: Run| {
        let (part, to) = (&parts[run.part], run.at as u64 * row_bytes as u64);
        let (tensor, view) = (part.tensor.clone(), shards[run.shard].view.clone());
        RowCopy { tensor, format, columns, first_row: part.first + run.first, rows: run.rows, view, to }
    };
    runs(parts.iter().map(|part| part.count), shards[0].count * unit, to_row, most).into_iter().map(copy).collect()
}

impl Weights<'_> {
    /// Reads and uploads all that was placed; gives the bytes read and more. `progress` is told
    /// after each chunk, `false` cancels.
    ///
    /// # Errors
    /// The first of a read or an upload, or the cancelling; what is in flight then is dropped.
    pub async fn fill(self, mut progress: impl FnMut(Progress) -> bool) -> Result<Filled> {
        let Weights { gguf, gpu, mut done, copies, host, .. } = self;
        drop(host);
        let (copies, mut staging) = (Arc::new(copies), Staging::new(gpu, STAGED, CHUNK));
        let total = done + copies.iter().map(|copy| copy.bytes() as u64).sum::<u64>();
        let (keeps, layout) = (keeps_pages(gpu, gguf), Arc::new(Layout::default()));
        let mut arriving = read_timed(gguf, &copies, &layout);
        while let Some((index, laid)) = arriving.next().await {
            let copy = &copies[index];
            let laid = laid?;
            staging.write(&copy.view, copy.to, &laid).await?;
            layout.give_back(laid);
            if !keeps {
                gguf.forget(&copy.tensor, copy.offset(), copy.bytes() as u64);
            }
            done += copy.bytes() as u64;
            if !progress(Progress { bytes: done, total }) {
                return Err(Error::Cancelled);
            }
        }
        gpu.flush()?;
        gpu.finished().await?;
        Ok(Filled { bytes: done, layout: Duration::from_nanos(layout.nanos.load(Ordering::Relaxed)) })
    }
}

/// Whether the page cache may keep what a load has read: the whole file and what lies in the host's memory fit into it. Else
/// other programs would lose theirs to bytes that are not read again. Where the system does not tell, it decides.
fn keeps_pages(gpu: &Gpu, gguf: &Gguf) -> bool {
    let shared = matches!(gpu.info().device_type, wgpu::DeviceType::Cpu | wgpu::DeviceType::IntegratedGpu);
    let (file, copies) = (gguf.data_bytes(), if shared { 2 } else { 1 });
    System::read().available.is_none_or(|available| file.saturating_mul(copies) <= available)
}

/// Copies by index, re-laid, in any order.
pub(super) type Reads = BoxStream<'static, (usize, Result<Vec<u8>>)>;

/// Reads all copies, as the stream is polled; dropping it cancels what has not come.
pub(super) fn read(gguf: &Gguf, copies: &Arc<Vec<RowCopy>>) -> Reads {
    read_timed(gguf, copies, &Arc::default())
}

/// As [`read`], with vectors that are given back and time that is counted.
fn read_timed(gguf: &Gguf, copies: &Arc<Vec<RowCopy>>, layout: &Arc<Layout>) -> Reads {
    let (gguf, copies, layout) = (gguf.clone(), copies.clone(), layout.clone());
    let each = (0..copies.len()).map(move |index| {
        let reading = copies[index].read(&gguf, &layout);
        async move { (index, reading.await) }
    });
    Box::pin(stream::iter(each).buffer_unordered(READS))
}

/// The next read that has come, or is waited for. Who does not wait is woken for it by the device's alarm.
#[allow(clippy::disallowed_methods, reason = "for functions named `blocking_*`")]
pub(super) fn next_read(reads: &mut Reads, gpu: &Gpu, wait: bool) -> Poll<Option<(usize, Result<Vec<u8>>)>> {
    match wait {
        true => Poll::Ready(pollster::block_on(reads.next())),
        false => reads.poll_next_unpin(&mut Context::from_waker(&gpu.waker())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gate and up of DeepSeek-V4-Pro, [384, 2 * 3072, 7168]: 4 times 2^32 elements, on a device that binds 2 GiB less 4 bytes.
    #[test]
    fn a_stack_of_more_than_2_to_the_32_elements_lies_in_shards_of_32_bit_words() {
        let (experts, rows, columns, format, limit) = (384, 2 * 3072, 7168, Format::Q4K, (2u64 << 30) - 4);
        assert!(experts as u64 * rows as u64 * columns as u64 > 3 << 32);
        let row_bytes = format.device_row_bytes(columns) as u64;
        let unit = row_bytes * rows as u64;
        let shards: Vec<_> = cut(experts, unit, limit).collect();
        assert_eq!((shards.len(), shards[0].len(), shards.last().map(|last| last.end)), (5, 86, Some(experts)));
        for shard in &shards {
            let bytes = unit * shard.len() as u64;
            // Kernels count words in u32.
            assert!(bytes <= limit && bytes / 4 <= u64::from(u32::MAX));
            assert!(u32::try_from(unit / 4).unwrap().checked_mul(shard.len() as u32 - 1).is_some());
        }
        // Gates and ups come in turn from two tensors; every row of every shard is written, in order.
        let mut next = [0usize; 5];
        let (mut sum, per_shard) = (0, shards[0].len() * rows);
        for run in runs(vec![rows / 2; 2 * experts], per_shard, 0, 1000) {
            assert_eq!(run.at, next[run.shard]);
            assert!(run.at + run.rows <= shards[run.shard].len() * rows);
            assert_eq!(run.part, (run.shard * per_shard + run.at) / (rows / 2));
            next[run.shard] += run.rows;
            sum += run.rows;
        }
        assert_eq!(sum, experts * rows);
    }
}
