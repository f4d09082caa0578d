//! `halogen bench device`: the limits that everything else is held against.

use super::origin;
use super::print::{Format, Report};
use super::table::Table;
use crate::cli::device::DeviceArgs;
use crate::cli::human;
use anyhow::Result;
use halogen::bench::device;
use std::path::PathBuf;

/// Measure what the device reaches at best, each limit by work that is checked
#[derive(clap::Args)]
pub struct Args {
    /// Measurements of a limit that gives one number at a time
    #[arg(short, long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    repetitions: u32,

    /// Also measure how fast this file's bytes reach the device
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,

    /// How to print
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,

    #[command(flatten)]
    device: DeviceArgs,
}

pub fn run(args: Args) -> Result<()> {
    let gpu = args.device.open()?;
    let rows = device(&gpu, args.repetitions as usize, args.file.as_deref())?;
    let mut table = Table::new(&["limit", "median", "spread", "samples"]);
    let mut notes = String::new();
    for r in &rows {
        let figure = &r.row.figure;
        table.row(vec![
            r.row.name.clone(),
            value(&r.row.unit, figure.median),
            format!("± {:.1} %", figure.relative_spread() * 100.0),
            figure.samples.to_string(),
        ]);
        notes += &format!("{}: {}.\n", r.row.name, r.how);
    }
    notes += "spread: a deviation, from the quartiles. What else the machine does meanwhile counts against it.\n";
    let mut origin = origin(&gpu);
    origin["kind"] = "device".into();
    let rows = rows.iter().map(|r| serde_json::to_value(r).expect("plain data")).collect();
    Report { origin, rows, head: gpu.info().name.clone(), table, notes }.print(args.output)
}

/// A figure in its unit.
pub fn value(unit: &str, value: f64) -> String {
    match unit {
        "s" => human::seconds(value),
        "B/s" => human::rate(value),
        "FLOP/s" | "OP/s" => human::si(value) + unit,
        unit => format!("{} {unit}", human::short(value)),
    }
}
