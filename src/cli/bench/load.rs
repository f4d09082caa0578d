//! `halogen bench load`: how fast a file reaches the device.

use super::origin;
use super::table::Table;
use crate::cli::device::DeviceArgs;
use crate::cli::{human, model, output};
use anyhow::Result;
use clap::ValueEnum;
use halogen::bench::{LoadRow, PageCache, files_of, load};
use halogen::memory::Upload;
use std::path::PathBuf;

/// How weights get to the device.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Way {
    /// Through a ring of mapped buffers, from which the device copies
    Ring,
    /// By the readers, into the weights' own memory, which host and device share
    InPlace,
    /// Not at all, for those that lie in the file as on the device, which reads the file's own pages
    Import,
}

impl From<Way> for Upload {
    fn from(way: Way) -> Upload {
        match way {
            Way::Ring => Upload::Ring,
            Way::InPlace => Upload::InPlace,
            Way::Import => Upload::Import,
        }
    }
}

/// Load a model, beside a plain parallel read of the same file: page cache warm and cold
#[derive(clap::Args)]
pub struct Args {
    /// The path of a .gguf file; `halogen fit --like ... --write FILE` makes one
    file: PathBuf,

    /// Loads, and plain reads, of each kind
    #[arg(short, long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    repetitions: u32,

    /// The ways to the device, all in one run; by default the one that `run` takes on this device
    #[arg(long, value_name = "WAY", value_delimiter = ',')]
    upload: Vec<Way>,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    device: DeviceArgs,
}

pub fn run(args: Args) -> Result<()> {
    let gguf = model::open(args.file.to_str())?;
    let files = files_of(&args.file, &gguf)?;
    let import = args.upload.contains(&Way::Import);
    let gpu = args.device.the_one(if import { args.device.open_importing()? } else { args.device.open_all()? })?;
    let repetitions = args.repetitions as usize;
    let mut uploads: Vec<Upload> = args.upload.into_iter().map(Upload::from).collect();
    if uploads.is_empty() {
        uploads.push(Upload::on(&gpu));
    }
    let kinds = [PageCache::Warm, PageCache::Cold];
    let rows = kinds.map(|kind| load(&gpu, &files, &gguf, kind, &uploads, repetitions));
    let rows = rows.into_iter().collect::<Result<Vec<Vec<LoadRow>>, _>>()?.concat();
    if args.json {
        let mut all = origin(&gpu);
        all["kind"] = "load".into();
        all["model"] = gguf.name().into();
        all["bytes"] = gguf.data_bytes().into();
        all["rows"] = serde_json::to_value(&rows)?;
        return output::print_json(&all);
    }
    let title = format!("{} ({}) on {}", gguf.name(), human::bytes(gguf.data_bytes()), gpu.info().name);
    Ok(output::print(format_args!("{title}\n\n{}", markdown(&rows)))?)
}

fn markdown(rows: &[LoadRow]) -> String {
    let head = [
        "page cache",
        "upload",
        "plain read",
        "to fresh memory",
        "load",
        "of plain",
        "of fresh",
        "layout",
        "in the file",
        "all of it",
        "above plan",
    ];
    let mut table = Table::new(&head);
    for r in rows {
        let kind = if r.page_cache == PageCache::Warm { "warm" } else { "cold" };
        table.row(vec![
            kind.into(),
            r.upload.name().into(),
            human::rate(r.plain.median),
            human::rate(r.fresh.median),
            human::rate(r.load.median),
            format!("{:.0} %", 100.0 * r.fraction_of_plain),
            format!("{:.0} %", 100.0 * r.fraction_of_fresh),
            format!("{:.0} %", 100.0 * r.layout_share),
            format!("{:.0} %", 100.0 * r.imported),
            human::seconds(r.seconds),
            r.host_above_plan.map_or("?".into(), |bytes| human::bytes(bytes.max(0) as u64)),
        ]);
    }
    format!(
        "{}\nplain read: the whole file, 4 MiB at a time, by as many threads as load, into memory that they have; to fresh memory: into \
         as much as the file takes.\nlayout: of the readers' time, what goes into laying rows out. in the file: of the bytes, what \
         the device reads in the file's own pages; a load reads and maps these too, so that no page is left to the first step. above \
         plan: most host memory that belongs to no file, beside the weights that lie in it.\n",
        table.markdown()
    )
}
