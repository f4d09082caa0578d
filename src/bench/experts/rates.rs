//! How fast experts come: what a budget's misses cost at least.

use super::super::{Random, Result};
use super::Kept;
use crate::gguf::{Error as ReadError, Gguf, READERS, TensorInfo};
use crate::gpu::Gpu;
use crate::memory::expert_stacks;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Spent on measuring random reads.
const READ_TIME: Duration = Duration::from_millis(300);
/// Handed to the device to measure the way there, an expert at a time.
const LINK_BYTES: u64 = 32 << 20;

/// Bytes a second of bringing experts at random: over the way to the device, from host memory, or by reads of the file if they are
/// slower; of kernels that read host memory.
pub fn bring_rate(gpu: &Gpu, gguf: &Gguf, kept: Kept) -> Result<f64> {
    match kept {
        Kept::Host => link_rate(gpu, gguf),
        Kept::File => {
            let read = random_read_rate(gguf, READ_TIME).map_err(crate::session::Error::from)?;
            Ok(read.min(link_rate(gpu, gguf)?))
        }
        Kept::InPlace => Ok(gpu.blocking_measure_in_place()?.expect("what has been loaded in place can be")),
    }
}

/// Bytes of the largest matrix of an expert.
fn largest(gguf: &Gguf) -> u64 {
    expert_stacks(gguf).map(|t| t.bytes / t.dims.get(2).copied().unwrap_or(1).max(1)).max().unwrap_or(0)
}

/// Bytes a second of reading experts of a file at random, as many at once as the store does, for about `time`.
fn random_read_rate(gguf: &Gguf, time: Duration) -> std::result::Result<f64, ReadError> {
    let stacks: Vec<&TensorInfo> = expert_stacks(gguf).collect();
    let (start, bytes) = (Instant::now(), AtomicU64::new(0));
    let read = |seed| -> std::result::Result<(), ReadError> {
        let (mut random, mut buffer) = (Random::new(seed), Vec::new());
        while start.elapsed() < time {
            let tensor = stacks[random.below(stacks.len())];
            let experts = tensor.dims.get(2).copied().unwrap_or(1);
            let expert = tensor.bytes / experts;
            buffer.resize(expert as usize, 0);
            gguf.blocking_read(tensor, random.below(experts as usize) as u64 * expert, &mut buffer)?;
            bytes.fetch_add(expert, Ordering::Relaxed);
        }
        Ok(())
    };
    thread::scope(|scope| {
        let read = &read;
        let readers: Vec<_> = (0..READERS as u64).map(|seed| scope.spawn(move || read(seed))).collect();
        readers.into_iter().try_for_each(|reader| reader.join().expect("a reader does not panic"))
    })?;
    Ok(bytes.into_inner() as f64 / start.elapsed().as_secs_f64())
}

/// Bytes a second of handing experts to the device.
fn link_rate(gpu: &Gpu, gguf: &Gguf) -> Result<f64> {
    let bytes = largest(gguf).next_multiple_of(4).clamp(4, LINK_BYTES);
    let (view, held) = (gpu.buffer("link", LINK_BYTES)?, vec![1u8; LINK_BYTES as usize]);
    let write_all = || -> Result<()> {
        let mut experts = held.chunks_exact(bytes as usize).zip((0..).step_by(bytes as usize));
        experts.try_for_each(|(expert, at)| gpu.write(&view, at, expert))?;
        gpu.flush()?;
        Ok(gpu.blocking_wait()?)
    };
    // Memory that is touched for the first time is slower.
    write_all()?;
    let start = Instant::now();
    write_all()?;
    Ok((LINK_BYTES / bytes * bytes) as f64 / start.elapsed().as_secs_f64())
}
