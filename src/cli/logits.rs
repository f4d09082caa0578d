//! `halogen logits`: what a model makes of given tokens, for whoever checks numerics.

use super::device::DeviceArgs;
use super::like::LikeArgs;
use super::placement::PlacementArgs;
use super::{human, model, output, success};
use anyhow::{Result, anyhow};
use halogen::bench::Skew;
use halogen::gpu::Tier;
use halogen::memory::KvFormat;
use halogen::models;
use halogen::session::{Session, SessionOptions};
use safetensors::tensor::{Dtype, TensorView};
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Write the logits of given tokens to a file
#[derive(clap::Args)]
#[command(after_help = "\
The file holds one tensor, logits: f32 [tokens, vocabulary]. The tokens are taken as they are, no BOS is added.
Without --tier, halogen computes in f32, the KV cache included.

Examples:
  halogen logits model.gguf --tokens 3,14,15 --out logits.safetensors
  halogen logits --like qwen3-30b-a3b --layers 2 --tokens 3,14,15 --out logits.safetensors")]
pub struct Args {
    /// A .gguf file, or `demo`: the embedded model (also where none is named)
    model: Option<String>,

    #[command(flatten)]
    like: LikeArgs,

    /// Token ids, with commas between
    #[arg(long, value_name = "IDS", value_delimiter = ',', required = true)]
    tokens: Vec<u32>,

    /// The file to write
    #[arg(long, value_name = "FILE.safetensors")]
    out: PathBuf,

    #[command(flatten)]
    device: DeviceArgs,

    #[command(flatten)]
    placement: PlacementArgs,

    #[command(flatten)]
    upload: model::UploadArgs,
}

pub fn run(args: Args) -> Result<ExitCode> {
    let gguf = args.like.open(args.model.as_deref())?;
    // Before the work, so that none is lost to a file that cannot be written.
    let out = Output::create(&args.out)?;
    let gpus = args.upload.open(&args.device)?;
    let best = gpus.iter().map(|gpu| gpu.caps().tier).min().expect("a device was opened");
    let tier = args.device.tier.unwrap_or(best.min(Tier::Subgroup));
    let shape = models::shape(&gguf)?;
    let vocabulary = shape.vocabulary;
    if let Some(id) = args.tokens.iter().find(|id| **id as usize >= vocabulary) {
        return Err(halogen::session::Error::TokenRange { id: *id, vocabulary }.into());
    }
    // A step's logits are one buffer, which one binding must span.
    let binding = gpus.iter().map(|gpu| gpu.caps().max_binding).min().expect("a device was opened");
    let chunk = (binding / (4 * vocabulary as u64)).clamp(1, 512) as usize;
    let options = SessionOptions {
        context: Some(args.tokens.len()),
        tier: Some(tier),
        kv: if tier.is_f32() { KvFormat::F32 } else { KvFormat::F16 },
        chunk,
        ..SessionOptions::default()
    };
    let placed = model::place(&gpus, &gguf, &options, &args.device, &args.placement, &args.upload)?;
    let model = model::load(&placed, &gguf, || false)?;
    let logits = Session::new(&model, &options)?.blocking_logits(&args.tokens, chunk)?;
    if let Some(usage) = args.like.usage()? {
        output::note(format_args!("note: {}", Skew::of(&model, &options, &usage)?));
    }

    let dims = vec![args.tokens.len(), vocabulary];
    let tensor = TensorView::new(Dtype::F32, dims, bytemuck::cast_slice(&logits))?;
    let devices: Vec<&str> = gpus.iter().map(|gpu| gpu.info().name.as_str()).collect();
    let about = [("model", gguf.name().to_string()), ("tier", tier.to_string()), ("device", devices.join(", "))];
    let about: HashMap<String, String> = about.into_iter().map(|(key, value)| (key.to_string(), value)).collect();
    let bytes = safetensors::serialize([("logits", tensor)], Some(about))?;
    out.write(&bytes)?;
    let (path, size) = (args.out.display(), human::bytes(bytes.len() as u64));
    output::note(format_args!("{path}: logits [{}, {vocabulary}], {size}, tier {tier}", args.tokens.len()));
    success()
}

/// A file to be written at the end; what it held stays until then, and one that was not there goes away on an error.
struct Output {
    file: File,
    path: PathBuf,
    unfinished: bool,
}

impl Output {
    fn create(path: &Path) -> Result<Output> {
        let unfinished = !path.exists();
        let opened = OpenOptions::new().write(true).create(true).truncate(false).open(path);
        let file = opened.map_err(|e| anyhow!("{}: cannot be written: {e}", path.display()))?;
        Ok(Output { file, path: path.into(), unfinished })
    }

    fn write(mut self, bytes: &[u8]) -> Result<()> {
        let regular = self.file.metadata().is_ok_and(|m| m.is_file());
        let cut = if regular { self.file.set_len(0) } else { Ok(()) };
        cut.and_then(|()| self.file.write_all(bytes))
            .map_err(|e| anyhow!("{}: writing failed: {e}", self.path.display()))?;
        self.unfinished = false;
        Ok(())
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if self.unfinished {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
