//! `halogen fit`: whether a model fits on a machine, where its parts would lie, and how fast bytes let it be.

mod matrix;
mod picture;
mod report;
mod target;

use super::cache::CacheArgs;
use super::device::DeviceArgs;
use super::like::LikeArgs;
use super::placement::PlacementArgs;
use super::{human, model, output, placement, success};
use anyhow::{Context, Result};
use halogen::memory::{Backing, Placement, plan};
use halogen::presets::asked;
use report::Report;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use target::Target;

const EXAMPLES: &str = "\
Speeds are bounds: bytes over the rates of where they lie, nothing else. A token reads the dense weights, the experts
that it uses and, with a full context, the KV cache. Experts that the device does not hold cross the link; without
--routing all experts are used alike, so a cache serves its share of them: the worst case.

Examples:
  halogen fit model.gguf                                  on this machine, as it is measured
  halogen fit --like qwen3-235b-a22b:q2_k                 before the download
  halogen fit --like gpt-oss-120b --machine rtx-3060 --plot plan.svg
  halogen fit --matrix                                    all presets on all machines";

/// Say whether a model fits, where it would lie and how fast it can be
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// A .gguf file, or `demo`: the embedded model (also where none is named)
    #[arg(conflicts_with = "matrix")]
    model: Option<String>,

    #[command(flatten)]
    like: LikeArgs,

    /// A machine by its name, instead of this one
    #[arg(long, value_name = "PRESET", conflicts_with = "matrix")]
    machine: Option<String>,

    /// Positions of the KV cache; otherwise the model's, at most 8192
    #[arg(short, long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..))]
    context: Option<u32>,

    #[command(flatten)]
    cache: CacheArgs,

    /// Memory of the host, GB
    #[arg(long, value_name = "GB", value_parser = positive)]
    ram: Option<f64>,

    /// Rate from the host's memory to the device, GB/s
    #[arg(long, value_name = "GB/S", value_parser = positive)]
    link: Option<f64>,

    /// Rate of the disk, GB/s
    #[arg(long, value_name = "GB/S", value_parser = positive)]
    disk: Option<f64>,

    /// All presets on all machines
    #[arg(long, conflicts_with = "like")]
    matrix: bool,

    /// Also draw where everything lies
    #[arg(long, value_name = "FILE.svg", conflicts_with = "matrix")]
    plot: Option<PathBuf>,

    /// With --like: also write the model to a file
    #[arg(long, value_name = "FILE.gguf", requires = "like")]
    write: Option<PathBuf>,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    device: DeviceArgs,

    #[command(flatten)]
    placement: PlacementArgs,
}

fn positive(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|v: &f64| v.is_finite() && *v > 0.0).ok_or("a positive number is needed".into())
}

pub fn run(args: Args) -> Result<ExitCode> {
    if args.matrix {
        matrix::print(&args)?;
        return success();
    }
    let gguf = match args.like.like {
        Some(_) => args.like.open(None)?,
        // --routing is then of the plan alone.
        None => model::open(args.model.as_deref())?,
    };
    let routing = args.like.routing.unwrap_or_default();
    let asked = asked(&gguf, args.context.map(|c| c as usize), args.cache.format()?)?;
    let mut target = match &args.machine {
        Some(name) => Target::preset(name)?,
        None => Target::here(&args.device)?,
    };
    target.change(args.ram, args.link, args.disk)?;
    target.limit(args.device.gpu_memory);
    args.placement.explain(&gguf)?;
    let on_host = args.placement.on_host();
    if args.placement.backing() == Backing::Disk {
        target.read_files();
    }
    let now = plan(&asked.demand, &target.machine, routing, on_host);
    let set = target.set.as_ref().map(|(_, machine)| plan(&asked.demand, machine, routing, on_host));
    let better = set.as_ref().filter(|set| set.decode.tokens_per_second > now.decode.tokens_per_second);
    let room = better.unwrap_or(&now).weight_bytes(&asked.demand);
    let placement = room.and_then(|bytes| Placement::with_experts_on_host(&gguf, bytes, on_host).ok());
    let report = Report {
        name: gguf.name(),
        asked: &asked,
        target: &target,
        routing,
        costs: placement.map(|placement| placement::costs(&gguf, &placement)).unwrap_or_default(),
        placement,
        plan: now,
        set,
    };
    if let Some(file) = &args.plot {
        std::fs::write(file, picture::draw(&report))
            .with_context(|| format!("{}: cannot be written", file.display()))?;
    }
    if args.json {
        output::print_json(&report.json())?;
    } else {
        output::print(format_args!("{}", report.text(output::Style::of(&std::io::stdout()))))?;
    }
    if let Some(file) = &args.write {
        write(&args.like, file).with_context(|| format!("{}: cannot be written", file.display()))?;
    }
    success()
}

fn write(like: &LikeArgs, file: &Path) -> Result<()> {
    let Some(preset) = like.like()? else { return Ok(()) };
    let synthetic = like.made(&preset, like.layers_of(preset.preset)?)?;
    let mut out = BufWriter::new(File::create(file)?);
    synthetic.write(&mut out)?;
    out.flush()?;
    let size = human::bytes(out.get_ref().metadata()?.len());
    output::note(format_args!("{}: {size}, made up", file.display()));
    Ok(())
}
