//! The driver's compiled kernels, kept in the user's cache from one run to the next.

use super::profile;
use anyhow::Result;
use halogen::gpu::Gpu;
use indicatif::{ProgressBar, ProgressDrawTarget};
use std::fs;
use std::time::Duration;

/// Runs `compile` with what the driver has kept, and what it submits to its end, since some drivers compile at a kernel's
/// first run: that is no answer's time. Keeps what they added. A cache that cannot be read or written is no error.
pub fn kept<T>(gpu: &Gpu, compile: impl FnOnce() -> Result<T>) -> Result<T> {
    let key = wgpu::util::pipeline_cache_key(gpu.info());
    let Some(file) = key.and_then(|key| Some(profile::cache_folder()?.join(key))) else { return ready(gpu, compile) };
    let before = fs::read(&file).ok();
    // SAFETY: the file is ours, and drivers check what they are given against themselves.
    unsafe { gpu.keep_pipelines(before.as_deref())? };
    let made = ready(gpu, compile)?;
    if let Some(after) = gpu.pipeline_cache_data().filter(|after| Some(after) != before.as_ref()) {
        let _ = profile::write(&file, &after);
    }
    Ok(made)
}

fn ready<T>(gpu: &Gpu, compile: impl FnOnce() -> Result<T>) -> Result<T> {
    let spinner = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()).with_message("compiling kernels");
    spinner.enable_steady_tick(Duration::from_millis(100));
    let made = compile().and_then(|made| Ok(pollster::block_on(gpu.finished()).map(|()| made)?));
    spinner.finish_and_clear();
    made
}
