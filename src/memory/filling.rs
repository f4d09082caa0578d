//! Weights from the file into their buffers: several positioned reads on their way, rows re-laid, one copy to the GPU.

use super::{Error, Result, Weights};
use crate::boxed::BoxStream;
use crate::formats::Format;
use crate::gguf::{Gguf, TensorInfo};
use crate::gpu::View;
use crate::ops::Shard;
use futures::StreamExt;
use futures::stream;
use std::sync::Arc;

/// Reads on their way at once: enough that a reader which sees a few of them at a time is never idle.
pub(super) const READS: usize = 16;
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

    /// Starts to read the rows; they arrive in the device's layout.
    fn read(&self, gguf: &Gguf) -> impl Future<Output = Result<Vec<u8>>> + use<> {
        let RowCopy { format, columns, rows, .. } = *self;
        let offset = self.first_row * format.row_bytes(columns);
        let reading = gguf.read(&self.tensor, offset as u64, self.bytes(), move |bytes| {
            let mut laid = vec![0; rows * format.device_row_bytes(columns)];
            format.relay(columns, &bytes, &mut laid);
            laid
        });
        async { Ok(reading.await?) }
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
    /// Reads and uploads all that was placed; gives the bytes read. `progress` is told
    /// after each chunk, `false` cancels.
    ///
    /// # Errors
    /// The first of a read or an upload, or the cancelling; what is in flight then is dropped.
    pub async fn fill(self, mut progress: impl FnMut(Progress) -> bool) -> Result<u64> {
        let Weights { gguf, gpu, mut done, copies, host, .. } = self;
        drop(host);
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

/// Copies by index, re-laid, in any order.
pub(super) type Reads = BoxStream<'static, (usize, Result<Vec<u8>>)>;

/// Reads all copies, as the stream is polled; dropping it cancels what has not come.
pub(super) fn read(gguf: &Gguf, copies: &Arc<Vec<RowCopy>>) -> Reads {
    let (gguf, copies) = (gguf.clone(), copies.clone());
    let each = (0..copies.len()).map(move |index| {
        let reading = copies[index].read(&gguf);
        async move { (index, reading.await) }
    });
    Box::pin(stream::iter(each).buffer_unordered(READS))
}
