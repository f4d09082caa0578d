//! Rows from the file, re-laid: several reads in flight.

use super::Result;
use crate::formats::Format;
use crate::gguf::{Gguf, TensorInfo};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread;

/// Reads in flight, each with its own thread to re-lay what came.
const READERS: usize = 4;
/// Below so many bytes threads cost more than they give.
const WORTH_THREADS: usize = 8 << 20;

/// Consecutive rows of a tensor, and where they go.
pub struct RowCopy<'t> {
    pub tensor: &'t TensorInfo,
    pub first_row: usize,
    pub rows: usize,
    /// Which shard, and the byte in it.
    pub shard: usize,
    pub to: u64,
}

/// Reads the rows of all copies and gives them to `each` in the device's layout, on this thread and in any order.
///
/// # Errors
/// The first of a read or of `each`; what is in flight then is dropped.
pub fn read_rows(
    gguf: &Gguf,
    format: Format,
    columns: usize,
    copies: &[RowCopy],
    mut each: impl FnMut(&RowCopy, Vec<u8>) -> Result<()>,
) -> Result<()> {
    let file_row = format.row_bytes(columns);
    let read = |copy: &RowCopy| -> Result<Vec<u8>> {
        let mut bytes = vec![0; copy.rows * file_row];
        gguf.read(copy.tensor, (copy.first_row * file_row) as u64, &mut bytes)?;
        let mut laid = vec![0; copy.rows * format.device_row_bytes(columns)];
        format.relay(columns, &bytes, &mut laid);
        Ok(laid)
    };
    if copies.iter().map(|c| c.rows * file_row).sum::<usize>() < WORTH_THREADS {
        return copies.iter().try_for_each(|copy| each(copy, read(copy)?));
    }
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        let (sender, receiver) = sync_channel(READERS);
        for _ in 0..READERS.min(copies.len()) {
            let (sender, next, read) = (sender.clone(), &next, &read);
            scope.spawn(move || {
                while let Some(copy) = copies.get(next.fetch_add(1, Ordering::Relaxed)) {
                    // The other side is gone after an error.
                    if sender.send((copy, read(copy))).is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        receiver.into_iter().try_for_each(|(copy, laid)| each(copy, laid?))
    })
}
