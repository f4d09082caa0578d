//! The rate at which a file's bytes reach the device.

use super::device::{DeviceRow, row, sampled};
use super::{Error, Result};
use crate::gguf::{FileSource, ReadAt};
use crate::gpu::Gpu;
use std::fs::{File, OpenOptions};
use std::path::Path;
use std::time::Instant;

/// Bytes of one read, and their alignment, as reads past the page cache need it.
const CHUNK: usize = 8 << 20;
const ALIGNMENT: usize = 4096;

/// Opens a file for reads that the page cache neither answers nor keeps, where the system and the file system have them.
fn open(path: &Path) -> std::io::Result<(File, bool)> {
    #[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "x86")))]
    {
        use std::os::unix::fs::OpenOptionsExt;
        const O_DIRECT: i32 = 0o40000;
        if let Ok(file) = OpenOptions::new().read(true).custom_flags(O_DIRECT).open(path) {
            return Ok((file, true));
        }
    }
    Ok((OpenOptions::new().read(true).open(path)?, false))
}

/// Bytes a second from `path` into a buffer of at most `bytes`: a read after the other, each handed to the device.
pub fn from_disk(gpu: &Gpu, path: &Path, bytes: u64) -> Result<DeviceRow> {
    let failed = |e: std::io::Error| Error::Case { name: path.display().to_string(), problem: e.to_string() };
    let (file, direct) = open(path).map_err(failed)?;
    let file = FileSource::new(file).map_err(failed)?;
    let count = file.len().min(bytes) as usize / CHUNK;
    if count == 0 {
        return Err(failed(std::io::Error::other(format!("{} MiB at least are needed", CHUNK >> 20))));
    }
    let to = gpu.buffer("from disk", (count * CHUNK) as u64)?;
    let mut memory = vec![0u8; CHUNK + ALIGNMENT];
    let start = memory.as_ptr().align_offset(ALIGNMENT);
    let chunk = &mut memory[start..][..CHUNK];
    let samples = sampled(|| {
        let start = Instant::now();
        for i in 0..count {
            let at = (i * CHUNK) as u64;
            file.read_at(at, chunk).map_err(failed)?;
            gpu.write(&to, at, chunk)?;
            gpu.flush()?;
        }
        gpu.blocking_wait()?;
        Ok((count * CHUNK) as f64 / start.elapsed().as_secs_f64())
    })?;
    for i in [0, count - 1] {
        let at = (i * CHUNK) as u64;
        file.read_at(at, chunk).map_err(failed)?;
        if gpu.blocking_read::<u8>(&to.slice(at, CHUNK as u64))? != chunk {
            return Err(Error::Wrong { name: "disk to device".into(), what: "other bytes arrived".into() });
        }
    }
    let how = match direct {
        true => "a file read past the page cache, 8 MiB after 8 MiB, each handed to the device",
        false => "a file read through the page cache, which may hold it, 8 MiB after 8 MiB, each handed to the device",
    };
    Ok(row("disk to device", "B/s", how, &samples))
}
