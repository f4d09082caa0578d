//! The driver's compiled kernels, kept in the user's cache from one run to the next.

use super::profile;
use anyhow::Result;
use halogen::gpu::Gpu;
use std::fs;

/// Runs `compile` with what the driver has kept, and keeps what it adds. A cache that cannot be read or written is no
/// error.
pub fn kept<T>(gpu: &Gpu, compile: impl FnOnce() -> Result<T>) -> Result<T> {
    let key = wgpu::util::pipeline_cache_key(gpu.info());
    let Some(file) = key.and_then(|key| Some(profile::cache_folder()?.join(key))) else { return compile() };
    let before = fs::read(&file).ok();
    // SAFETY: the file is ours, and drivers check what they are given against themselves.
    unsafe { gpu.keep_pipelines(before.as_deref())? };
    let made = compile()?;
    if let Some(after) = gpu.pipeline_cache_data().filter(|after| Some(after) != before.as_ref()) {
        let _ = profile::write(&file, &after);
    }
    Ok(made)
}
