//! `halogen bench model`: a model's speed, as users of llama-bench expect it.

use super::table::Table;
use super::{origin, timing_note};
use crate::cli::cache::CacheArgs;
use crate::cli::device::DeviceArgs;
use crate::cli::like::{Cut, LikeArgs};
use crate::cli::placement::PlacementArgs;
use crate::cli::{human, model, output, pipelines, profile};
use anyhow::Result;
use halogen::bench::{KernelTime, ModelBench, ModelReport, ModelRow, Skew};
use halogen::gguf::Gguf;
use halogen::gpu::{DeviceProfile, Gpu};
use halogen::memory::KvCache;
use halogen::models;
use halogen::session::{Session, SessionOptions, Share};
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt::Write;

/// A model's tokens a second, and what its kernels take of them
#[derive(clap::Args)]
pub struct Args {
    /// The path of a .gguf file, or demo: the embedded model
    model: Option<String>,

    #[command(flatten)]
    like: LikeArgs,

    /// Tokens of a prompt; 0: none is measured; several by commas
    #[arg(short = 'p', long, value_name = "N", default_value = "512", value_delimiter = ',')]
    n_prompt: Vec<u32>,

    /// Tokens generated one by one; 0: none are measured; several by commas
    #[arg(short = 'n', long, value_name = "N", default_value = "128", value_delimiter = ',')]
    n_gen: Vec<u32>,

    /// Tokens in the cache before; several by commas
    #[arg(short = 'd', long, value_name = "N", default_value = "0", value_delimiter = ',')]
    n_depth: Vec<u32>,

    /// Measured runs of each test, after one that is not
    #[arg(short, long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    repetitions: u32,

    /// How to print
    #[arg(short, long, value_enum, default_value = "md")]
    output: Format,

    /// Also the time of every kernel in one decode step, not only of the longest
    #[arg(long)]
    profile: bool,

    #[command(flatten)]
    cache: CacheArgs,

    #[command(flatten)]
    device: DeviceArgs,

    #[command(flatten)]
    placement: PlacementArgs,

    #[command(flatten)]
    upload: model::UploadArgs,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum Format {
    Md,
    Json,
}

/// Kernels that are shown without --profile.
const TOP: usize = 5;

/// One test: tokens of a prompt or generated, and tokens cached before.
#[derive(Clone, Copy, PartialEq)]
enum Test {
    Prompt(usize, usize),
    Tokens(usize, usize),
}

impl Test {
    /// As asked for, each cut to what the model's context holds.
    fn all(args: &Args, context: usize) -> Vec<Test> {
        let mut tests = Vec::new();
        for depth in args.n_depth.iter().map(|n| *n as usize) {
            tests.extend(args.n_prompt.iter().map(|n| Test::Prompt(*n as usize, depth)));
            tests.extend(args.n_gen.iter().map(|n| Test::Tokens(*n as usize, depth)));
        }
        let mut cut: Vec<Test> = tests.into_iter().filter_map(|test| test.cut(context)).collect();
        cut.dedup();
        cut
    }

    /// `None`: nothing is left to measure.
    fn cut(self, context: usize) -> Option<Test> {
        let (name, tokens, depth) = match self {
            Test::Prompt(tokens, depth) => ("pp", tokens, depth),
            Test::Tokens(tokens, depth) => ("tg", tokens, depth),
        };
        let before = if name == "tg" { depth.max(1) } else { depth };
        let fits = tokens.min(context.saturating_sub(before));
        if fits < tokens {
            let instead = if fits == 0 { "is left out".into() } else { format!("is cut to {name}{fits}") };
            let at = if depth > 0 { format!(" after {depth} tokens") } else { String::new() };
            output::note(format_args!("note: {name}{tokens}{at} {instead}: the model's context is {context} tokens"));
        }
        (fits > 0).then_some(if name == "pp" { Test::Prompt(fits, depth) } else { Test::Tokens(fits, depth) })
    }

    /// Positions that it needs.
    fn positions(self) -> usize {
        match self {
            Test::Prompt(tokens, depth) => tokens + depth,
            Test::Tokens(tokens, depth) => tokens + depth.max(1),
        }
    }
}

pub fn run(args: Args) -> Result<()> {
    let kv = args.cache.format()?;
    let gpus = args.upload.open(&args.device)?;
    let fits = |gguf: &Gguf| -> Result<bool> {
        let shape = models::shape(gguf)?;
        let most = |counts: &[u32]| counts.iter().max().copied().unwrap_or(0) as usize;
        let asked = most(&args.n_depth).max(1) + most(&args.n_prompt).max(most(&args.n_gen));
        let context = Some(asked.min(shape.context));
        let options = SessionOptions { context, kv, ..SessionOptions::default() };
        // Experts that come and go would be made, not read: they do only where a budget is asked for.
        let shares = Share::among(&gpus, gguf, &options, &args.placement.options(args.device.gpu_memory));
        let resident = |shares: &Vec<Share>| shares.iter().all(|share| share.placement.is_resident());
        Ok(shares.as_ref().is_ok_and(resident) || (args.device.gpu_memory.is_some() && shares.is_ok()))
    };
    let (gguf, cut) = args.like.open_fitting(args.model.as_deref(), fits)?;
    let shape = models::shape(&gguf)?;
    let tests = Test::all(&args, shape.context);
    let limits = gpus.iter().map(|gpu| profile::of(gpu, true)).collect::<Result<Vec<DeviceProfile>>>()?;
    let context = tests.iter().map(|t| t.positions()).max().unwrap_or(1);
    let tier = args.device.tier;
    let options = SessionOptions {
        context: Some(context),
        tier,
        kv,
        limits: Some(limits[0]),
        further_limits: limits[1..].iter().copied().map(Some).collect(),
        ..SessionOptions::default()
    };
    KvCache::check(&shape.keeps, kv)?;
    let placed = model::place(&gpus, &gguf, &options, &args.device, &args.placement, &args.upload)?;
    let model = model::load(&placed, &gguf, || false)?;
    let mut session = pipelines::session(&model, &options)?;
    let report = measure(&mut session, &gpus[0], limits.clone(), &tests, &args)?;
    let skew = args.like.usage()?.map(|usage| Skew::of(&model, &options, &usage)).transpose()?;
    match args.output {
        Format::Json => {
            let mut all = origin(&gpus[0]);
            let more = json!({
                "kind": "model", "model": gguf.name(), "model_bytes": gguf.data_bytes(), "tier": session.tier().to_string(),
                "limits": limits[0], "devices": model::devices(&model), "rows": report.rows, "timing": report.timing, "kernels": report.kernels,
                "skew": skew, "cut": cut.as_ref().map(|cut| json!({
                    "layers": cut.layers, "of": cut.all,
                    "tokens_per_second": scaled(&report.rows, cut).into_iter().collect::<BTreeMap<_, _>>(),
                })),
            });
            all.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
            output::print_json(&all)
        }
        Format::Md => {
            let head = format!(
                "{} ({}) on {}, tier {}\n\n",
                gguf.name(),
                human::bytes(gguf.data_bytes()),
                gpus.iter().map(|gpu| gpu.info().name.as_str()).collect::<Vec<_>>().join(", "),
                session.tier()
            );
            let cut = cut.map(|cut| all_layers(&report.rows, &cut)).unwrap_or_default();
            let skew = skew.map(|skew| format!("\n{skew}\n")).unwrap_or_default();
            Ok(output::print(format_args!("{head}{}{skew}{cut}", markdown(&report, &limits, &args)))?)
        }
    }
}

fn measure(
    session: &mut Session,
    gpu: &Gpu,
    limits: Vec<DeviceProfile>,
    tests: &[Test],
    args: &Args,
) -> Result<ModelReport> {
    let mut bench = ModelBench::new(session, limits, args.repetitions as usize);
    let mut rows = Vec::new();
    for test in tests {
        rows.push(match *test {
            Test::Prompt(tokens, depth) => bench.prompt(tokens, depth)?,
            Test::Tokens(tokens, depth) => bench.tokens_one_by_one(tokens, depth)?,
        });
    }
    let last = tests.iter().rev().find_map(|test| match test {
        Test::Tokens(tokens, depth) => Some(depth.max(&1) + tokens / 2),
        Test::Prompt(..) => None,
    });
    // Asked for, it is shown even where no token was generated.
    let last = last.or(args.profile.then_some(args.n_depth[0] as usize));
    let timing = gpu.timing();
    let kernels = last.map_or(Ok(Vec::new()), |positions| bench.kernels(positions, timing))?;
    Ok(ModelReport { rows, kernels, timing })
}

/// What tests would reach on all layers, by name: in proportion to the bytes of a step, or to the operations of a prompt.
fn scaled(rows: &[ModelRow], cut: &Cut) -> Vec<(String, f64)> {
    let rate = |r: &ModelRow| r.row.figure.mean / if r.bound == "flops" { cut.prompt } else { cut.decode };
    rows.iter().map(|r| (r.row.name.clone(), rate(r))).collect()
}

fn all_layers(rows: &[ModelRow], cut: &Cut) -> String {
    let rates: Vec<String> =
        scaled(rows, cut).into_iter().map(|(name, rate)| format!("{name} {} t/s", human::short(rate))).collect();
    format!("\nMade up, {} of {} layers. Scaled to all layers: {}.\n", cut.layers, cut.all, rates.join(", "))
}

fn percent(fraction: f64) -> String {
    format!("{:.0} %", fraction * 100.0)
}

fn markdown(report: &ModelReport, limits: &[DeviceProfile], args: &Args) -> String {
    let mut table = Table::new(&["test", "t/s", "of bound", "bound", "dispatches", "submits", "host us"]);
    for ModelRow { row, fraction_of_bound, bound, dispatches, submits, host_microseconds, .. } in &report.rows {
        table.row(vec![
            row.name.clone(),
            format!("{:.2} ± {:.2}", row.figure.mean, row.figure.deviation),
            percent(*fraction_of_bound),
            bound.to_string(),
            dispatches.to_string(),
            human::short(*submits),
            human::short(*host_microseconds),
        ]);
    }
    let mut out = table.markdown();
    out += &notes(limits, args.repetitions);
    if !report.kernels.is_empty() {
        let shown = if args.profile { report.kernels.len() } else { TOP.min(report.kernels.len()) };
        out += &kernels(&report.kernels, shown);
        let _ = writeln!(out, "\nTimed by {}.", timing_note(report.timing));
    }
    out
}

/// What the figures include.
fn notes(limits: &[DeviceProfile], repetitions: u32) -> String {
    let each: Vec<String> = limits.iter().map(measured).collect();
    let each = each.join("; then ");
    format!(
        "
Mean ± standard deviation of {repetitions} runs after one that is not counted; all on the wall clock, by random tokens.
pp: from the first submit until the token that follows the prompt is on the host, its sampling included. tg: from there to
the last token, each sampled on the GPU (greedy) and read back; steps are queued ahead; without -d after one token. Not included: loading, compiling,
tokenizing. dispatches, submits, host us (encoding, up to the driver's submit): of the whole prompt in pp, of a token in tg.
Limits measured before: {each}.
Bound of tg: bytes of weights and cache over reads, plus dispatches. Bound of pp: operations over f32 FLOP/s.
",
    )
}

/// The limits of a device.
fn measured(limits: &DeviceProfile) -> String {
    let [rate, flops] = [human::rate(limits.stream_bytes_per_second), human::si(limits.flops_per_second)];
    format!("reads {rate}, f32 {flops}FLOP/s, a dependent dispatch {}", human::seconds(limits.dispatch_seconds))
}

fn kernels(kernels: &[KernelTime], shown: usize) -> String {
    let total: f64 = kernels.iter().map(|k| k.seconds).sum();
    let mut table = Table::new(&["kernel of one decode step", "dispatches", "time", "share", "moves", "of limit"]);
    for k in &kernels[..shown] {
        table.row(vec![
            k.kernel.clone(),
            k.dispatches.to_string(),
            human::seconds(k.seconds),
            percent(k.seconds / total),
            human::bytes(k.bytes),
            percent(k.fraction_of_limit),
        ]);
    }
    let others = kernels.len() - shown;
    let more = if others > 0 { format!("\n{others} more with --profile.") } else { String::new() };
    let dispatches: usize = kernels.iter().map(|k| k.dispatches).sum();
    format!("\n{}{more}\nAll {dispatches} dispatches: {}.", table.markdown(), human::seconds(total))
}
