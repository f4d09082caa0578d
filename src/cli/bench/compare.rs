//! `halogen bench compare`: two reports, and what differs by more than their spread.

use super::device::value;
use super::table::Table;
use crate::cli::output;
use anyhow::{Context, Result, bail};
use halogen::bench::{Change, Comparison, Row, Verdict, compare};
use serde_json::Value;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Compare two reports that bench wrote with -o json
#[derive(clap::Args)]
pub struct Args {
    /// The report from before
    #[arg(value_name = "A.json")]
    before: PathBuf,

    /// The report from after
    #[arg(value_name = "B.json")]
    after: PathBuf,

    /// How to print
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Format {
    Table,
    Md,
    Json,
}

/// What is compared of a report.
struct Report {
    origin: Value,
    rows: Vec<Row>,
}

fn read(path: &Path) -> Result<Report> {
    let name = path.display();
    let text = std::fs::read(path).with_context(|| format!("{name}: cannot be read"))?;
    let mut origin: Value =
        serde_json::from_slice(&text).with_context(|| format!("{name}: no report of `halogen bench ... -o json`"))?;
    let rows = origin.get_mut("rows").map(Value::take).unwrap_or_default();
    let rows: Vec<Row> = serde_json::from_value(rows)
        .with_context(|| format!("{name}: its rows are none of `halogen bench ... -o json`"))?;
    Ok(Report { origin, rows })
}

pub fn run(args: Args) -> Result<()> {
    let (before, after) = (read(&args.before)?, read(&args.after)?);
    for key in ["kind", "device", "driver", "model", "tier"] {
        let (a, b) = (&before.origin[key], &after.origin[key]);
        if a != b {
            output::note(format_args!("note: the reports differ in {key}: {a}, {b}"));
        }
    }
    let comparison = compare(&before.rows, &after.rows);
    if comparison.changes.is_empty() {
        bail!("{} and {} have no row in common", args.before.display(), args.after.display());
    }
    match args.output {
        Format::Json => output::print_json(&comparison),
        Format::Md => Ok(output::print(format_args!("{}{}", table(&comparison).markdown(), notes(&comparison)))?),
        Format::Table => Ok(output::print(format_args!("{}{}", table(&comparison).text(), notes(&comparison)))?),
    }
}

fn table(comparison: &Comparison) -> Table {
    let mut table = Table::new(&["what", "before", "after", "speed", "verdict"]);
    for change in &comparison.changes {
        let Change { name, speed, spread, verdict, .. } = change;
        let figure = |median: f64| value(&change.unit, median);
        table.row(vec![
            name.clone(),
            figure(change.before),
            figure(change.after),
            format!("{speed:.2} ± {spread:.2}"),
            words(*verdict).into(),
        ]);
    }
    table
}

fn words(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Faster => "faster",
        Verdict::Slower => "slower",
        Verdict::NoDifference => "no difference",
        Verdict::TooFewSamples => "too few samples",
    }
}

fn notes(comparison: &Comparison) -> String {
    let mut out = String::from(
        "\nMedians. speed: times as fast as before, ± a deviation by the quartiles of both; what lies within it is no difference.\n",
    );
    for (side, names) in [("before", &comparison.only_before), ("after", &comparison.only_after)] {
        if !names.is_empty() {
            let _ = writeln!(out, "Only {side}: {}.", names.join(", "));
        }
    }
    out
}
