//! MODEL, for every command that takes one: the embedded model or a file, opened and loaded.

use super::device::DeviceArgs;
use super::placement::PlacementArgs;
use super::{human, output};
use anyhow::{Result, bail};
use halogen::gguf::Gguf;
use halogen::gpu::Gpu;
use halogen::memory::{Backing, DenseMemory, ExpertMemory, Placement, Progress, Upload};
use halogen::models;
use halogen::session::{Model, SessionOptions, Share};
use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use serde_json::{Value, json};
use std::fmt::Write;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// The word that names the embedded model.
pub const DEMO: &str = "demo";

#[cfg(feature = "demo-model")]
static DEMO_MODEL: &[u8] = include_bytes!("../../assets/rust-docs-moe-q4_k_m.gguf");

/// Opens MODEL: a path, or the embedded model.
pub fn open(model: Option<&str>) -> Result<Gguf> {
    match model.unwrap_or(DEMO) {
        DEMO => open_demo(),
        path if !Path::new(path).exists() => {
            bail!("{path}: no such file; MODEL is the path of a .gguf file, or `{DEMO}`")
        }
        path => Ok(Gguf::open(Path::new(path))?),
    }
}

#[cfg(feature = "demo-model")]
fn open_demo() -> Result<Gguf> {
    Ok(Gguf::from_static(DEMO, DEMO_MODEL)?)
}

#[cfg(not(feature = "demo-model"))]
fn open_demo() -> Result<Gguf> {
    bail!("this halogen was built without the embedded model; name a .gguf file")
}

/// How a model's weights get to the device.
#[derive(clap::Args)]
pub struct UploadArgs {
    /// Read weights in the file's own pages where they lie there as on the device, without a copy; the file must not change meanwhile
    #[arg(long)]
    import: bool,
}

impl UploadArgs {
    /// Opens the adapters for that.
    pub fn open(&self, device: &DeviceArgs) -> Result<Vec<Gpu>> {
        if self.import { device.open_importing() } else { device.open_all() }
    }
}

/// Where a model's weights lie.
pub struct Placed {
    shares: Vec<Share>,
    backing: Backing,
}

/// Where a model's weights lie: beside a session with these options, within `--gpu-memory` or what the devices have.
pub fn place(
    gpus: &[Gpu],
    gguf: &Gguf,
    options: &SessionOptions,
    device: &DeviceArgs,
    wishes: &PlacementArgs,
    upload: &UploadArgs,
) -> Result<Placed> {
    wishes.explain(gguf)?;
    let mut shares = Share::among(gpus, gguf, options, &wishes.options(device.gpu_memory))?;
    shares.iter_mut().for_each(|share| share.upload = upload.import.then_some(Upload::Import));
    let layers = models::shape(gguf)?.keeps.len();
    for Share { gpu, span, placement, .. } in &shares {
        if shares.len() > 1 {
            let (layers, name) = (span.layers(layers), &gpu.info().name);
            output::note(format_args!("note: layers {} to {} lie on {name}", layers.start, layers.end - 1));
        }
        explain(placement);
    }
    Ok(Placed { shares, backing: wishes.backing() })
}

/// Says what does not fit.
fn explain(placement: &Placement) {
    if let Some(ExpertMemory { bytes, all, .. }) = placement.experts.filter(|experts| experts.bytes < experts.all) {
        let (some, all) = (human::bytes(bytes), human::bytes(all));
        output::note(format_args!("note: {some} of {all} of experts fit at once; others are read as they are needed"));
    }
    if let Some(DenseMemory { layers, streamed, bytes, pieces, .. }) = placement.dense {
        let bytes = human::bytes(bytes);
        let ends = if pieces > 0 { ", the embedding and the output matrix" } else { "" };
        output::note(format_args!(
            "note: {streamed} of {layers} layers{ends} do not fit: their {bytes} are read again for every step, at most 1 token in the \
             time that takes"
        ));
    }
}

/// Loads a model's weights, with a progress bar on stderr where that is a terminal. `interrupted` cancels.
pub fn load(placed: &Placed, gguf: &Gguf, interrupted: impl Fn() -> bool) -> Result<Arc<Model>> {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    bar.set_style(style(Instant::now()));
    bar.set_message(gguf.name().to_string());
    let progress = |progress: Progress| {
        bar.set_length(progress.total);
        bar.set_position(progress.bytes);
        !interrupted()
    };
    let model = pollster::block_on(Model::load_shares(&placed.shares, gguf, placed.backing, progress));
    bar.finish_and_clear();
    let model = model?;
    let stats = model.load_stats();
    if stats.upload == Upload::Import {
        let (some, all) = (human::bytes(stats.imported), human::bytes(stats.bytes));
        output::note(format_args!("note: {some} of {all} are read in the file's own pages, which must not change"));
    }
    Ok(model)
}

/// The layers on each device, for `--json`.
pub fn devices(model: &Model) -> Vec<Value> {
    let one = |(gpu, layers): (&Gpu, Range<usize>)| json!({ "name": gpu.info().name, "first_layer": layers.start, "layers": layers.len() });
    model.devices().map(one).collect()
}

fn style(start: Instant) -> ProgressStyle {
    let bytes = |state: &ProgressState, out: &mut dyn Write| {
        let (at, all) = (human::bytes(state.pos()), human::bytes(state.len().unwrap_or(0)));
        let _ = write!(out, "{at} of {all}");
    };
    let rate = move |state: &ProgressState, out: &mut dyn Write| {
        let rate = state.pos() as f64 / start.elapsed().as_secs_f64().max(1e-3) / 1e9;
        let _ = write!(out, "{rate:.2} GB/s, {:#} left", HumanDuration(state.eta()));
    };
    ProgressStyle::with_template("{msg} [{bar:32}] {size}, {rate}")
        .expect("a template of our own")
        .with_key("size", bytes)
        .with_key("rate", rate)
        .progress_chars("=> ")
}
