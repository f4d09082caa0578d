//! `halogen bench experts`: a model whose experts do not all fit, by how many of them do.

use super::origin;
use super::table::Table;
use crate::cli::device::DeviceArgs;
use crate::cli::like::LikeArgs;
use crate::cli::placement::PlacementArgs;
use crate::cli::{human, output, profile};
use anyhow::{Result, anyhow};
use halogen::bench::{ExpertBench, ExpertReport, Kept, MOST_EXCESS, expert_plot};
use halogen::memory::expert_bytes;
use halogen::session::SessionOptions;
use std::path::PathBuf;

/// Tokens a second by the share of the experts that fits, beside the bound that the misses set
#[derive(clap::Args)]
pub struct Args {
    /// The path of a .gguf file, or demo: the embedded model
    model: Option<String>,

    #[command(flatten)]
    like: LikeArgs,

    /// Shares of the experts' bytes, in percent, by commas; 100: all are resident
    #[arg(long, value_name = "PERCENT", default_value = "100,75,50,25", value_delimiter = ',',
        value_parser = clap::value_parser!(u32).range(1..=100))]
    budgets: Vec<u32>,

    /// Tokens generated one by one
    #[arg(short = 'n', long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    n_gen: u32,

    /// Rounds over all budgets, after a run of each that is not counted
    #[arg(short, long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    repetitions: u32,

    /// Print JSON
    #[arg(long)]
    json: bool,

    /// Also draw the table
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,

    #[command(flatten)]
    device: DeviceArgs,

    #[command(flatten)]
    placement: PlacementArgs,
}

pub fn run(args: Args) -> Result<()> {
    let gguf = args.like.open(args.model.as_deref())?;
    let gpu = args.device.open()?;
    let limits = profile::of(&gpu, false)?;
    let options = SessionOptions { tier: args.device.tier, limits: Some(limits), ..SessionOptions::default() };
    args.placement.explain(&gguf)?;
    let usage = args.like.usage()?;
    let bench = ExpertBench {
        gpu: &gpu,
        gguf: &gguf,
        options: &options,
        shares: &args.budgets,
        on_host: args.placement.on_host(),
        backing: args.placement.backing(),
        usage: usage.as_ref(),
        tokens: args.n_gen as usize,
        rounds: args.repetitions as usize,
    };
    let report = bench.run()?;
    let all = human::bytes(expert_bytes(&gguf));
    let title = format!("{} ({all} of experts) on {}", gguf.name(), gpu.info().name);
    if let Some(path) = &args.plot {
        let written = std::fs::write(path, expert_plot(&title, &report));
        written.map_err(|e| anyhow!("{}: cannot be written: {e}", path.display()))?;
    }
    if args.json {
        let mut all = origin(&gpu);
        all["kind"] = "experts".into();
        all["model"] = gguf.name().into();
        let report = serde_json::to_value(&report)?;
        all.as_object_mut().expect("an object").extend(report.as_object().expect("an object").clone());
        return output::print_json(&all);
    }
    let made_up = report.skew.as_ref().map(|skew| format!("Made up: reads are what making the bytes takes. {skew}\n"));
    let made_up = made_up.unwrap_or_default();
    Ok(output::print(format_args!("{title}\n\n{}{made_up}", markdown(&report)))?)
}

fn markdown(report: &ExpertReport) -> String {
    let head = [
        "experts",
        "bytes",
        "t/s",
        "there",
        "read/token",
        "halts/token",
        "a halt",
        "bound t/s",
        "of bound",
        "half costs",
    ];
    let mut table = Table::new(&head);
    let percent = |fraction: f64| format!("{} %", human::short(100.0 * fraction));
    for r in &report.rows {
        let figure = &r.row.figure;
        let half = r.halving.map(|h| {
            let over = if h.within { "" } else { " !" };
            format!("{:.2}, bound {:.2}{over}", h.cost, h.bound_cost)
        });
        table.row(vec![
            format!("{} %", r.share),
            human::bytes(r.expert_bytes),
            format!("{} ± {}", human::short(figure.median), human::short(figure.relative_spread() * figure.median)),
            percent(r.hit_rate),
            human::bytes(r.missed_bytes_per_token as u64),
            human::short(r.halts_per_token),
            r.seconds_per_halt.map_or("-".into(), human::seconds),
            human::short(r.bound_tokens_per_second),
            percent(r.fraction_of_bound),
            half.unwrap_or("-".into()),
        ]);
    }
    let step = human::seconds(report.resident_step_seconds);
    let rate = human::rate(report.read_bytes_per_second);
    let from = match report.kept {
        Kept::File => "random reads of this model's experts",
        Kept::Host => "copies of experts in host memory",
        Kept::InPlace => "kernels that read host memory",
    };
    let most = human::short(100.0 * (MOST_EXCESS - 1.0));
    format!(
        "{}\nMedians over rounds, each with its prompt of random tokens through all budgets; the first token is not counted.\n\
         bound: a resident step of {step} and the missed bytes at {rate}, which {from} reach. there: of the experts that steps\n\
         needed. a halt: what it takes beside reading, from what a token takes beyond the bound. half costs: time of a token at\n\
         half the budget over that here; ! where it is more than the bound says and {most} %.\n",
        table.markdown()
    )
}
