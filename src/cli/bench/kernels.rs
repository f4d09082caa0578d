//! `halogen bench kernels`: each kernel against the limits of the device.

use super::print::{Format, Report};
use super::table::Table;
use super::{origin, timing_note};
use crate::cli::device::DeviceArgs;
use crate::cli::{human, output, profile};
use anyhow::{Context, Result, bail};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use halogen::bench::{Ceiling, KernelBench, KernelRow, Limit, Point, Selection, Setting, rate, roofline};
use halogen::formats;
use halogen::gpu::{DeviceProfile, Gpu, Tier, Timing};
use halogen::ops::Arithmetic;
use halogen::presets::{ModelPreset, models};
use std::path::PathBuf;
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  halogen bench kernels --op matvec --format q4_k,q6_k --shape 4096x4096,16384x8192
  halogen bench kernels --preset qwen3-30b-a3b --format q4_k --tier all --plot roofline.svg
  halogen bench kernels --op matvec --format all -o json > before.json";

/// Check kernels against their twins, and time them at the shapes of real models
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Only these operators
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = PossibleValuesParser::new(Selection::ops()))]
    op: Vec<String>,

    /// Block formats of the weights, or all
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    format: Vec<String>,

    /// Shapes of the matrices, rows first; of experts, those of one's gate matrix
    #[arg(long, value_name = "ROWSxCOLUMNS", value_delimiter = ',', value_parser = shape, conflicts_with = "preset")]
    shape: Vec<[usize; 2]>,

    /// The matrices of these models, or all
    #[arg(long, value_name = "MODEL", value_delimiter = ',', value_parser = presets())]
    preset: Vec<String>,

    /// Positions that are cached before a step [default: 8191; 1023 on a software device]
    #[arg(short, long, value_name = "POSITIONS", value_parser = clap::value_parser!(u32).range(..=1 << 20))]
    depth: Option<u32>,

    /// The kernels of these tiers, or of all that the device has, each in its tier's arithmetic; else those that
    /// `halogen shaders --explain` tells
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = PossibleValuesParser::new(tiers()))]
    tier: Vec<String>,

    /// The arithmetic of matrix products, where there is a kernel of it
    #[arg(long, value_name = "NAME", value_parser = arithmetic())]
    force: Option<Arithmetic>,

    /// MiB of inputs that are rotated, so that no cache holds them
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..))]
    memory: Option<u32>,

    /// Milliseconds spent on timing each kernel
    #[arg(long, value_name = "MS", default_value_t = 500)]
    time: u32,

    /// How to print
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,

    /// Also draw a roofline
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,

    /// The adapter, by its number in `halogen devices` or a part of its name
    #[arg(long, value_name = "N|NAME")]
    device: Option<String>,
}

fn tiers() -> impl Iterator<Item = &'static str> {
    Tier::ALL.into_iter().map(Tier::name).chain(["all"])
}

fn presets() -> Vec<&'static str> {
    models().iter().flat_map(ModelPreset::names).chain(["all"]).collect()
}

fn arithmetic() -> impl TypedValueParser<Value = Arithmetic> {
    PossibleValuesParser::new(Arithmetic::ALL.map(Arithmetic::name)).try_map(|name| name.parse::<Arithmetic>())
}

pub fn shape(text: &str) -> Result<[usize; 2], String> {
    let sides = text.split_once('x').and_then(|(r, c)| Some([r.parse().ok()?, c.parse().ok()?]));
    match sides {
        // Kernels count words in 32 bits.
        Some([rows, columns]) if (1..=1 << 20).contains(&rows) && (4..=1 << 20).contains(&columns) => {
            Ok([rows, columns])
        }
        _ => Err("ROWSxCOLUMNS is needed, 4096x2048 say, of at most 1048576 each".into()),
    }
}

fn selection(args: &Args) -> Result<Selection> {
    let mut chosen = Vec::new();
    for name in &args.format {
        match formats::Format::ALL.iter().find(|f| f.name() == name) {
            Some(format) => chosen.push(*format),
            None if name == "all" => chosen.extend(formats::Format::ALL),
            None => {
                let known: Vec<&str> = formats::Format::ALL.iter().map(|f| f.name()).collect();
                bail!("unknown format `{name}`; there are {}", known.join(", "))
            }
        }
    }
    let all = args.preset.iter().any(|p| p == "all");
    let presets = match all {
        true => models().iter().collect(),
        false => args.preset.iter().map(|name| ModelPreset::named(name)).collect::<Result<_, _>>()?,
    };
    let (ops, shapes, depth) = (args.op.clone(), args.shape.clone(), args.depth.map(|depth| depth as usize));
    Ok(Selection { ops, formats: chosen, shapes, presets, depth })
}

/// How kernels are chosen, a way for each tier.
fn settings(args: &Args, gpu: &Gpu) -> Result<Vec<Setting>> {
    let best = gpu.caps().tier;
    let mut tiers: Vec<Tier> = Tier::ALL.into_iter().filter(|tier| *tier <= best).collect();
    if args.tier.is_empty() {
        return Ok(vec![Setting { tier: best, force: args.force }]);
    }
    if !args.tier.iter().any(|name| name == "all") {
        tiers = args.tier.iter().map(|name| name.parse()).collect::<Result<_, _>>()?;
    }
    let setting = |tier: Tier| match args.force {
        Some(_) => Setting { tier, force: args.force },
        None => Setting::own(tier),
    };
    tiers.iter().try_for_each(|tier| gpu.require(*tier))?;
    Ok(tiers.into_iter().map(setting).collect())
}

pub fn run(args: Args) -> Result<()> {
    let selection = selection(&args)?;
    let gpu = DeviceArgs { device: args.device.clone(), tier: None, gpu_memory: None }.open()?;
    let memory = args.memory.map_or(KernelBench::default_memory(gpu.caps().class), |m| u64::from(m) << 20);
    let (cases, others) = selection.cases(gpu.caps().class, memory);
    for name in others {
        output::note(format_args!("note: {name} is left out: its columns are no multiple of the format's block"));
    }
    let bench = KernelBench {
        gpu: &gpu,
        tiers: settings(&args, &gpu)?,
        limits: profile::of(&gpu, true)?,
        memory,
        time: Duration::from_millis(args.time.into()),
    };
    let (mut rows, mut failed) = (Vec::new(), 0);
    for case in cases {
        let (more, errors) = bench.run(&case);
        rows.extend(more);
        // The others are measured all the same.
        failed += errors.len();
        errors.iter().for_each(|error| output::note(format_args!("note: {error}")));
    }
    if let Some(file) = &args.plot {
        let svg = plot(&gpu, &bench.limits, &rows);
        std::fs::write(file, svg).with_context(|| format!("{}: cannot be written", file.display()))?;
    }
    report(&bench, &rows).print(args.output)?;
    if failed > 0 {
        bail!("{failed} kernels could not be measured; the notes above say why");
    }
    Ok(())
}

/// Every kernel that computes: an operator of several is drawn by its kernels.
fn plot(gpu: &Gpu, limits: &DeviceProfile, rows: &[KernelRow]) -> String {
    let parts = |r: &KernelRow| {
        rows.iter().any(|p| p.kernel.is_some() && p.row.name.starts_with(&(r.row.name.clone() + " / ")))
    };
    let drawn: Vec<&KernelRow> = rows.iter().filter(|r| r.flops > 0 && (r.kernel.is_some() || !parts(r))).collect();
    let point = |r: &&KernelRow| Point {
        label: r.row.name.clone(),
        intensity: r.flops as f64 / r.bytes as f64,
        flops_per_second: r.flops_per_second,
        fraction: r.fraction_of_limit,
    };
    let used = |a: &Arithmetic| *a == Arithmetic::F32 || drawn.iter().any(|r| r.arithmetic == a.name());
    let ceiling =
        |a: Arithmetic| rate(limits, a).map(|rate| Ceiling { label: format!("{a} FLOP"), flops_per_second: rate });
    let ceilings: Vec<Ceiling> = Arithmetic::ALL.into_iter().filter(used).filter_map(ceiling).collect();
    let points: Vec<Point> = drawn.iter().map(point).collect();
    roofline(&format!("Kernels on {}", gpu.info().name), limits.stream_bytes_per_second, &ceilings, &points)
}

fn report(bench: &KernelBench, rows: &[KernelRow]) -> Report {
    let mut origin = origin(bench.gpu);
    origin["kind"] = "kernels".into();
    let tiers: Vec<String> = bench.tiers.iter().map(|setting| setting.tier.to_string()).collect();
    origin["tier"] = tiers.join(",").into();
    origin["limits"] = serde_json::to_value(bench.limits).expect("numbers");
    let mut table = Table::new(&["kernel", "in", "time", "spread", "rate", "of limit", "samples", "copies", "NMSE"]);
    for r in rows {
        let rate = match r.limit {
            Limit::Bandwidth | Limit::Launches => human::rate(r.bytes_per_second),
            Limit::Flops => human::si(r.flops_per_second) + "FLOP/s",
        };
        table.row(vec![
            r.row.name.clone(),
            r.arithmetic.clone(),
            human::seconds(r.row.figure.median),
            format!("± {:.1} %", r.row.figure.relative_spread() * 100.0),
            rate,
            format!("{:.0} %{}", r.fraction_of_limit * 100.0, if r.limit == Limit::Launches { " launch" } else { "" }),
            r.row.figure.samples.to_string(),
            r.copies.to_string(),
            format!("{:.0e}", r.nmse),
        ]);
    }
    Report {
        origin,
        rows: rows.iter().map(|r| serde_json::to_value(r).expect("plain data")).collect(),
        head: format!("{}, tier {}", bench.gpu.info().name, tiers.join(", ")),
        table,
        notes: notes(bench.gpu.timing(), &bench.limits),
    }
}

/// What the figures include.
fn notes(timing: Timing, limits: &DeviceProfile) -> String {
    let rate = |a: Arithmetic| rate(limits, a).map(|rate| format!("{a} {}FLOP/s", human::si(rate)));
    let rates: Vec<String> = Arithmetic::ALL.into_iter().filter_map(rate).collect();
    format!(
        "\
time: median of one run on the device, by {}. spread: a deviation, from the quartiles.
rate: bytes that must be moved at least (weights as in the file, inputs, outputs once) or, where computing takes longer at
the limits of its arithmetic, operations, a multiply-add being two. launch: the bound is the dispatches' launches.
Limits measured before: reads {}, {}, a dependent dispatch {}.
Behind a slash: one kernel of the operator above, by what it says that it moves and computes, what passes between included.
Inputs are random and rotated through so many copies (of experts: disjoint choices). NMSE: against the twin, over a sample.
More than 100 %: a cache held the inputs (see --memory), or the machine was busy while its limits were measured.
",
        timing_note(timing),
        human::rate(limits.stream_bytes_per_second),
        rates.join(", "),
        human::seconds(limits.dispatch_seconds),
    )
}
