//! How fast a file's weights reach the device, beside a plain parallel read of the same file, and what memory that takes.

use super::{Error, Result, Summary};
use crate::gguf::{FileSource, Gguf, READERS, ReadAt, forget};
use crate::gpu::Gpu;
use crate::memory::Upload;
use crate::session::{LoadOptions, LoadStats, Model};
use serde::Serialize;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes of one plain read.
const CHUNK: u64 = 4 << 20;
/// From one look at the process's memory to the next.
const LOOK: Duration = Duration::from_millis(2);

/// What the page cache holds of the file before each read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PageCache {
    Warm,
    Cold,
}

/// Loads of one file.
#[derive(Clone, Debug, Serialize)]
pub struct LoadRow {
    pub page_cache: PageCache,
    /// How the weights got to the device.
    pub upload: Upload,
    /// Bytes a second of the whole file, each read into memory that was touched before.
    pub plain: Summary,
    /// The same, into memory that is fresh: what a load must do where its bytes stay.
    pub fresh: Summary,
    /// Bytes a second of the weights, from the first read until the device has them all.
    pub load: Summary,
    /// Of the load by the plain read, medians.
    pub fraction_of_plain: f64,
    /// The same, of the read into fresh memory.
    pub fraction_of_fresh: f64,
    /// All of [`Model::load`], the tokenizer too: median.
    pub seconds: f64,
    /// Of the time of all reading threads, what laying out rows takes.
    pub layout_share: f64,
    /// Of the bytes, those that stay in the file's own pages.
    pub imported: f64,
    /// Most bytes of memory that belongs to no file beside those of the weights that are on the device and not in the file; `None` where the system does
    /// not say.
    pub host_above_plan: Option<i64>,
}

/// All files of the model that `path` belongs to.
pub fn files_of(path: &Path, gguf: &Gguf) -> Result<Vec<PathBuf>> {
    let count = gguf.tensors().iter().map(|t| t.shard + 1).max().unwrap_or(1);
    if count == 1 {
        return Ok(vec![path.into()]);
    }
    let name = path.to_string_lossy();
    let stem = name.len().checked_sub("-00001-of-00001.gguf".len()).and_then(|at| name.get(..at));
    let stem = stem.ok_or_else(|| failed(path, std::io::Error::other("not the name of a split file")))?;
    Ok((1..=count).map(|i| format!("{stem}-{i:05}-of-{count:05}.gguf").into()).collect())
}

fn failed(path: &Path, error: std::io::Error) -> Error {
    Error::Case { name: path.display().to_string(), problem: error.to_string() }
}

/// Loads a model `repetitions` times, each of `uploads` in turn beside plain reads; each time it is dropped again. A row for each of
/// them.
///
/// # Errors
/// A file that cannot be read, or a model that cannot be loaded.
pub fn load(
    gpu: &Gpu,
    files: &[PathBuf],
    gguf: &Gguf,
    page_cache: PageCache,
    uploads: &[Upload],
    repetitions: usize,
) -> Result<Vec<LoadRow>> {
    let prepare = || match page_cache {
        PageCache::Cold => files.iter().try_for_each(|file| evict(file)),
        PageCache::Warm => Ok(()),
    };
    // What lies in memory is there once it was read.
    plain(files, false)?;
    let mut plains: [Vec<f64>; 2] = Default::default();
    let mut loads = vec![Vec::new(); uploads.len()];
    for _ in 0..repetitions {
        for (rates, fresh) in plains.iter_mut().zip([false, true]) {
            prepare()?;
            rates.push(plain(files, fresh)?);
        }
        for (loads, upload) in loads.iter_mut().zip(uploads) {
            prepare()?;
            loads.push(watched(gpu, gguf, *upload)?);
        }
    }
    let plains = plains.map(|rates| Summary::of(&rates));
    Ok(loads.iter().map(|loads| row(page_cache, &plains, loads)).collect())
}

/// Loads of one way, and the most memory beside the weights during each.
fn row(page_cache: PageCache, [plain, fresh]: &[Summary; 2], loads: &[(LoadStats, Option<i64>)]) -> LoadRow {
    let of =
        |value: fn(&LoadStats) -> f64| Summary::of(&loads.iter().map(|(stats, _)| value(stats)).collect::<Vec<_>>());
    let load = of(|stats| stats.bytes as f64 / stats.fill.as_secs_f64());
    LoadRow {
        page_cache,
        upload: loads[0].0.upload,
        fraction_of_plain: load.median / plain.median,
        fraction_of_fresh: load.median / fresh.median,
        plain: *plain,
        fresh: *fresh,
        load,
        seconds: of(|stats| stats.time.as_secs_f64()).median,
        layout_share: of(|stats| stats.layout.as_secs_f64() / (stats.fill.as_secs_f64() * READERS as f64)).median,
        imported: of(|stats| stats.imported as f64 / stats.bytes as f64).median,
        host_above_plan: loads.iter().filter_map(|(_, above)| *above).max(),
    }
}

/// Bytes a second of as many threads as a load has, into one piece of memory each or into all that the file takes.
fn plain(files: &[PathBuf], fresh: bool) -> Result<f64> {
    let (mut bytes, mut seconds) = (0, 0.0);
    for path in files {
        let file = File::open(path).and_then(FileSource::new).map_err(|e| failed(path, e))?;
        let mut whole = vec![0; if fresh { file.len() as usize } else { READERS * CHUNK as usize }];
        let start = Instant::now();
        let next = AtomicU64::new(0);
        let pieces: Vec<(u64, &mut [u8])> = if fresh {
            (0..).step_by(CHUNK as usize).zip(whole.chunks_mut(CHUNK as usize)).collect()
        } else {
            whole.chunks_mut(CHUNK as usize).map(|piece| (u64::MAX, piece)).collect()
        };
        let pieces = std::sync::Mutex::new(pieces);
        let read = || -> std::io::Result<()> {
            let take = || pieces.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).pop();
            if fresh {
                while let Some((at, piece)) = take() {
                    file.read_at(at, piece)?;
                }
                return Ok(());
            }
            let (_, piece) = take().expect("one for each thread");
            loop {
                let at = next.fetch_add(CHUNK, Ordering::Relaxed);
                if at >= file.len() {
                    return Ok(());
                }
                file.read_at(at, &mut piece[..CHUNK.min(file.len() - at) as usize])?;
            }
        };
        let results: Vec<_> = thread::scope(|scope| {
            let readers: Vec<_> = (0..READERS).map(|_| scope.spawn(read)).collect();
            readers.into_iter().map(|reader| reader.join().expect("a read does not panic")).collect()
        });
        results.into_iter().collect::<std::io::Result<()>>().map_err(|e| failed(path, e))?;
        bytes += file.len();
        seconds += start.elapsed().as_secs_f64();
    }
    Ok(bytes as f64 / seconds)
}

/// Has the page cache forget a file, what was written of it too.
fn evict(path: &Path) -> Result<()> {
    let file = File::open(path).map_err(|e| failed(path, e))?;
    file.sync_all().and_then(|()| forget(&file, 0, 0)).map_err(|e| failed(path, e))
}

/// Loads a model; what it took, and the most memory beside its weights.
fn watched(gpu: &Gpu, gguf: &Gguf, upload: Upload) -> Result<(LoadStats, Option<i64>)> {
    let (before, done) = (anonymous(), AtomicBool::new(false));
    let (loaded, most) = thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut most = None;
            while !done.load(Ordering::Relaxed) {
                most = most.max(anonymous());
                thread::sleep(LOOK);
            }
            most
        });
        let options = LoadOptions { upload: Some(upload), ..LoadOptions::default() };
        let loaded = pollster::block_on(Model::load_with(gpu, gguf, &options, |_| true));
        done.store(true, Ordering::Relaxed);
        (loaded, watch.join().expect("looking does not panic"))
    });
    let model = loaded?;
    // A device with memory of its own keeps the weights there.
    let shared = matches!(gpu.info().device_type, wgpu::DeviceType::Cpu | wgpu::DeviceType::IntegratedGpu);
    let stats = model.load_stats();
    let plan = if shared { gguf.data_bytes() - stats.imported } else { 0 };
    let above = most.zip(before).map(|(most, before)| most as i64 - before as i64 - plan as i64);
    drop(model);
    gpu.blocking_wait()?;
    Ok((stats, above))
}

/// Bytes of this process's memory that belong to no file; drivers may share theirs. Linux tells.
fn anonymous() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let field = |name: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    };
    field("RssAnon:")?.checked_add(field("RssShmem:")?)
}
