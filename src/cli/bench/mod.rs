//! `halogen bench`: measurements, each beside the limit of the machine.

mod compare;
mod device;
mod experts;
mod kernels;
mod load;
mod model;
mod print;
mod table;

use super::success;
use anyhow::Result;
use halogen::gpu::{Gpu, Timing};
pub use kernels::shape;
use serde_json::{Value, json};
use std::process::ExitCode;

const EXAMPLES: &str = "\
Examples:
  halogen bench model model.gguf -p 512 -n 128    a prompt, and tokens one by one
  halogen bench kernels --plot roofline.svg       every operator, beside what the device could do
  halogen bench device                            reads, copies, multiply-adds, dispatches, round trips
  halogen bench load model.gguf                   how fast a file reaches the device
  halogen bench experts model.gguf                speed by how many of the experts fit
  halogen bench compare before.json after.json    what changed by more than its spread";

/// Measure models, kernels and the device against the machine's limits
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    Model(model::Args),
    Kernels(kernels::Args),
    Device(device::Args),
    Experts(experts::Args),
    Load(load::Args),
    Compare(compare::Args),
}

pub fn run(args: Args) -> Result<ExitCode> {
    match args.what {
        What::Model(args) => model::run(args)?,
        What::Kernels(args) => kernels::run(args)?,
        What::Device(args) => device::run(args)?,
        What::Experts(args) => experts::run(args)?,
        What::Load(args) => load::run(args)?,
        What::Compare(args) => compare::run(args)?,
    }
    success()
}

/// What every report names: where it was measured, and by what.
fn origin(gpu: &Gpu) -> Value {
    let info = gpu.info();
    let driver = format!("{} {}", info.driver, info.driver_info);
    json!({"halogen": env!("CARGO_PKG_VERSION"), "device": info.name, "driver": driver.trim()})
}

fn timing_note(timing: Timing) -> &'static str {
    match timing {
        Timing::InPass => "GPU timestamps between the dispatches of one pass",
        Timing::PassEach => "GPU timestamps, a pass a dispatch: with what a pass costs, without overlap",
        Timing::Slope => "the slope of wall time over repetitions: the device has no timestamps",
    }
}
