//! Weights from the file into their buffers: several positioned reads in flight, rows re-laid, one copy to the GPU.

use super::{Error, Result, Weights};
use crate::formats::Format;
use crate::gguf::{Gguf, TensorInfo};
use crate::gpu::View;
use crate::ops::Shard;
use futures::channel::mpsc;
use futures::{SinkExt, StreamExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Reads in flight, each with its own thread to re-lay what came.
pub const READERS: usize = 4;
/// Bytes below which one thread more costs more than it gives.
const WORTH_A_THREAD: usize = 4 << 20;
/// Bytes read, re-laid and handed to the queue at once.
const CHUNK: usize = 4 << 20;
/// Bytes queued before they are waited for, which bounds the staging memory of the driver.
const QUEUED: u64 = 64 << 20;

/// How far a load has come.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Bytes read from the file.
    pub bytes: u64,
    /// Bytes that will be read.
    pub total: u64,
}

/// Consecutive rows of a tensor.
#[derive(Clone)]
pub(super) struct Rows {
    pub tensor: Arc<TensorInfo>,
    pub first: usize,
    pub count: usize,
}

/// Consecutive rows of a tensor, and where they go.
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

    /// The rows in the device's layout.
    fn read(&self, gguf: &Gguf) -> Result<Vec<u8>> {
        let mut bytes = vec![0; self.bytes()];
        let offset = self.first_row * self.format.row_bytes(self.columns);
        gguf.read(&self.tensor, offset as u64, &mut bytes)?;
        let mut laid = vec![0; self.rows * self.format.device_row_bytes(self.columns)];
        self.format.relay(self.columns, &bytes, &mut laid);
        Ok(laid)
    }
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
    let per_shard = shards[0].count * unit;
    let (mut copies, mut row) = (Vec::new(), to_row);
    for part in parts {
        let mut done = 0;
        while done < part.count {
            let (shard, at) = (&shards[row / per_shard], row % per_shard);
            let rows = most.min(part.count - done).min(shard.count * unit - at);
            let (tensor, view) = (part.tensor.clone(), shard.view.clone());
            let (first_row, to) = (part.first + done, (at * row_bytes) as u64);
            copies.push(RowCopy { tensor, format, columns, first_row, rows, view, to });
            (done, row) = (done + rows, row + rows);
        }
    }
    copies
}

impl Weights<'_> {
    /// Reads and uploads all that was placed, on a few threads that end with it; gives the bytes read. `progress` is told
    /// after each chunk, `false` cancels.
    ///
    /// # Errors
    /// The first of a read or an upload, or the cancelling; what is in flight then is dropped.
    pub async fn fill(self, mut progress: impl FnMut(Progress) -> bool) -> Result<u64> {
        let Weights { gguf, gpu, mut done, copies, .. } = self;
        let (copies, mut queued) = (Arc::new(copies), 0);
        let total = done + copies.iter().map(|copy| copy.bytes() as u64).sum::<u64>();
        let mut arriving = read(gguf, &copies);
        while let Some((index, laid)) = arriving.next().await {
            let (copy, laid): (&RowCopy, Vec<u8>) = (&copies[index], laid?);
            gpu.write(&copy.view, copy.to, &laid)?;
            queued += laid.len() as u64;
            if queued >= QUEUED {
                gpu.flush()?;
                gpu.finished().await?;
                queued = 0;
            }
            done += copy.bytes() as u64;
            if !progress(Progress { bytes: done, total }) {
                return Err(Error::Cancelled);
            }
        }
        gpu.flush()?;
        gpu.finished().await?;
        Ok(done)
    }
}

/// Copies by index, re-laid.
pub(super) type Reads = mpsc::Receiver<(usize, Result<Vec<u8>>)>;

/// Starts reading all copies; they arrive in any order.
pub(super) fn read(gguf: &Gguf, copies: &Arc<Vec<RowCopy>>) -> Reads {
    let (sender, receiver) = mpsc::channel(0);
    let next = Arc::new(AtomicUsize::new(0));
    let bytes: usize = copies.iter().map(RowCopy::bytes).sum();
    for _ in 0..(bytes / WORTH_A_THREAD).clamp(1, READERS) {
        let (gguf, copies, next, mut sender) = (gguf.clone(), copies.clone(), next.clone(), sender.clone());
        thread::spawn(move || {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(copy) = copies.get(index) else { break };
                // The other side is gone after an error or where the load was dropped.
                if pollster::block_on(sender.send((index, copy.read(&gguf)))).is_err() {
                    break;
                }
            }
        });
    }
    receiver
}
