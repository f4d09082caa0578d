//! The driver's compiled kernels, kept in the user's cache from one run to the next.

use super::profile;
use anyhow::Result;
use halogen::session::{Model, Session, SessionOptions};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::fs;
use std::sync::Arc;
use std::time::Duration;

/// A session, compiled with what the driver has kept, and whatever that submits to its end, since some drivers compile at a
/// kernel's first run: that is no answer's time. Keeps what they added. A cache that cannot be read or written is no error.
pub fn session(model: &Arc<Model>, options: &SessionOptions) -> Result<Session> {
    let mut kept = Vec::new();
    for (gpu, _) in model.devices() {
        let key = wgpu::util::pipeline_cache_key(gpu.info());
        let Some(file) = key.and_then(|key| Some(profile::cache_folder()?.join(key))) else { continue };
        let before = fs::read(&file).ok();
        // SAFETY: the file is ours, and drivers check what they are given against themselves.
        unsafe { gpu.keep_pipelines(before.as_deref())? };
        kept.push((gpu, file, before));
    }
    let session = ready(model, options)?;
    for (gpu, file, before) in kept {
        if let Some(after) = gpu.pipeline_cache_data().filter(|after| Some(after) != before.as_ref()) {
            let _ = profile::write(&file, &after);
        }
    }
    Ok(session)
}

/// Between two looks of the bar.
const SLICE: Duration = Duration::from_millis(100);

fn ready(model: &Arc<Model>, options: &SessionOptions) -> Result<Session> {
    let mut warm_up = model.warm_up(options)?;
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()).with_message("compiling kernels");
    bar.set_style(ProgressStyle::with_template("{msg} [{bar:32}] {pos} of {len}").expect("a template of our own"));
    while !warm_up.advance(SLICE)? {
        let (done, total) = warm_up.progress();
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    }
    for (gpu, _) in model.devices() {
        pollster::block_on(gpu.finished())?;
    }
    bar.finish_and_clear();
    Ok(warm_up.finish()?)
}
