//! `halogen shaders`: the kernels, without a device: what they bind, what they translate to, and what a compiler makes
//! of them.

mod emit;
mod explain;
#[cfg(feature = "shader-stats")]
mod radv;
#[cfg(feature = "shader-stats")]
mod stats;

use super::bench::shape;
use super::device::DeviceArgs;
use super::{output, success, usage};
use anyhow::{Context, Result};
use clap::error::ErrorKind;
use halogen::gpu::{BindingKind, DeviceClass, KernelSpec, SHADERS, reflect};
use halogen::ops::{Tuning, variants};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;

const EXAMPLES: &str = "\
Examples:
  halogen shaders                                            every shader, its variants and bindings
  halogen shaders matvec --variant \"q4_k norm\"               the variants of one that name q4_k and norm
  halogen shaders matvec --variant \"q4_k norm\" --emit spirv  the simplest of them, translated
  halogen shaders --emit wgsl --out target/wgsl              every variant, a file each
  halogen shaders --explain                                  which arithmetic products take on this device, and why
  halogen shaders matvec --stats gfx1151                     registers and instructions on Strix Halo (a build
                                                             with --features shader-stats)";

/// List the GPU kernels, or print one's source or translation
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The shader
    name: Option<String>,

    /// Words that a variant's name must hold: a format, flags, sizes (rows=4)
    #[arg(long, value_name = "WORDS", default_value = "")]
    variant: String,

    /// The kind of device whose tiles are used
    #[arg(long, value_name = "gpu|cpu", default_value = "gpu", hide_default_value = true)]
    class: Class,

    /// Print the simplest matching variant as composed or translated; with --out, write all
    #[arg(long, value_name = "LANGUAGE", value_enum, conflicts_with = "stats")]
    emit: Option<emit::Language>,

    /// The folder for --emit, a file a variant
    #[arg(long, value_name = "FOLDER", requires = "emit")]
    out: Option<PathBuf>,

    /// Compile for an AMD GPU that need not be here (gfx1151, navi31, ...) and print registers and instructions
    #[arg(long, value_name = "FAMILY")]
    stats: Option<String>,

    /// With --stats: also print the machine code of the simplest matching variant
    #[arg(long, requires = "stats")]
    isa: bool,

    /// With --stats: fail on spills and scratch memory, and say what changed since this file was written
    #[arg(long, value_name = "FILE", requires = "stats", conflicts_with_all = ["isa", "json"])]
    snapshot: Option<PathBuf>,

    /// Write the file of --snapshot anew
    #[arg(long, requires = "snapshot")]
    update: bool,

    /// Print in which arithmetic each kind of product with a matrix of this shape is computed on this device, and why
    #[arg(long, value_name = "ROWSxCOLUMNS", value_parser = shape, num_args = 0..=1, default_missing_value = "4096x4096",
          conflicts_with_all = ["name", "emit", "stats", "variant"])]
    explain: Option<[usize; 2]>,

    #[command(flatten)]
    device: DeviceArgs,

    /// Print JSON
    #[arg(long, conflicts_with = "emit")]
    json: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Class {
    Gpu,
    Cpu,
}

pub fn run(args: Args) -> Result<ExitCode> {
    if let Some(shape) = args.explain {
        return explain::run(shape, &args.device, args.json);
    }
    let found = select(&args)?;
    if let Some(family) = &args.stats {
        return stats(family, &found, &args);
    }
    match (args.emit, &args.out) {
        (Some(language), Some(folder)) => {
            std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
            let (found, others): (Vec<_>, Vec<_>) =
                found.iter().partition(|spec| emit::untranslatable(spec, language).is_none());
            for spec in &found {
                let path = folder.join(format!("{}.{}", file_name(spec), language.extension()));
                std::fs::write(&path, emit::emit(spec, language)?)
                    .with_context(|| format!("cannot write {}", path.display()))?;
            }
            output::note(format_args!("{} files in {}", found.len(), folder.display()));
            let reasons: BTreeSet<_> = others.iter().filter_map(|spec| emit::untranslatable(spec, language)).collect();
            reasons.iter().for_each(|why| output::note(format_args!("{} variants left out: {why}", others.len())));
        }
        (Some(language), None) => {
            let bytes = emit::emit(simplest(&found), language)?;
            output::note(simplest(&found));
            output::print_bytes(&bytes)?;
        }
        (None, _) => list(&found, &args)?,
    }
    success()
}

/// The variants that are asked for; at least one.
fn select(args: &Args) -> Result<Vec<KernelSpec>> {
    let class = match args.class {
        Class::Gpu => DeviceClass::Gpu,
        Class::Cpu => DeviceClass::Cpu,
    };
    let named = |spec: &KernelSpec| args.name.as_ref().is_none_or(|name| spec.shader == name);
    let wanted: Vec<&str> = args.variant.split([' ', '[', ']']).filter(|w| !w.is_empty()).collect();
    let found: Vec<KernelSpec> = variants(Tuning::of(class))
        .into_iter()
        .filter(|spec| named(spec) && wanted.iter().all(|w| *w == spec.shader || words(spec).contains(*w)))
        .collect();
    if !found.is_empty() {
        return Ok(found);
    }
    let message = match &args.name {
        Some(name) if !SHADERS.iter().any(|(n, _)| n == name) => {
            let names: Vec<&str> = SHADERS.iter().map(|(n, _)| *n).filter(|n| !n.starts_with("lib/")).collect();
            format!("no shader `{name}`; there are {}\n", names.join(", "))
        }
        _ => format!("no variant holds all of: {}\n", wanted.join(" ")),
    };
    Err(usage("shaders", ErrorKind::InvalidValue, message))
}

/// What a variant's name holds: format, flags, sizes.
fn words(spec: &KernelSpec) -> BTreeSet<String> {
    let name = spec.to_string();
    name.trim_start_matches(spec.shader).trim_matches(['[', ']']).split(' ').map(str::to_string).collect()
}

/// The variant with the fewest flags, the first of several.
fn simplest(found: &[KernelSpec]) -> &KernelSpec {
    found.iter().min_by_key(|spec| spec.flags.len()).expect("at least one")
}

/// A variant's name without what file systems dislike.
fn file_name(spec: &KernelSpec) -> String {
    spec.to_string().replace(['[', ' '], "-").replace(']', "")
}

/// Bindings as `name: kind`, by rising index.
fn bindings(spec: &KernelSpec) -> Result<Vec<String>> {
    let (module, _) = emit::module(spec, false)?;
    let kind = |kind| match kind {
        BindingKind::Read => "read",
        BindingKind::Write => "read_write",
        BindingKind::Uniform => "uniform",
    };
    Ok(reflect(&module).0.iter().map(|b| format!("{} {}: {}", b.index, b.name, kind(b.kind))).collect())
}

/// With a name or words the variants, else the shaders with their number of variants.
fn list(found: &[KernelSpec], args: &Args) -> Result<()> {
    if args.json {
        let value =
            |spec| Ok(serde_json::json!({ "variant": KernelSpec::to_string(spec), "bindings": bindings(spec)? }));
        return output::print_json(&found.iter().map(value).collect::<Result<Vec<_>>>()?);
    }
    let brief = args.name.is_none() && args.variant.is_empty();
    let mut seen = BTreeSet::new();
    for spec in found {
        if !brief {
            output::print(format_args!("{spec}\n    {}\n", bindings(spec)?.join(", ")))?;
        } else if seen.insert(spec.shader) {
            let all: Vec<&KernelSpec> = found.iter().filter(|s| s.shader == spec.shader).collect();
            // Flags add bindings: those of all variants together.
            let mut names = BTreeSet::new();
            for flags in all.iter().map(|s| &s.flags).collect::<BTreeSet<_>>() {
                names.extend(bindings(all.iter().find(|s| s.flags == *flags).expect("one of them"))?);
            }
            let names: Vec<String> = names.into_iter().collect();
            output::print(format_args!("{}: {} variants\n    {}\n", spec.shader, all.len(), names.join(", ")))?;
        }
    }
    Ok(())
}

#[cfg(feature = "shader-stats")]
fn stats(family: &str, found: &[KernelSpec], args: &Args) -> Result<ExitCode> {
    stats::run(family, found, args)
}

#[cfg(not(feature = "shader-stats"))]
fn stats(_: &str, _: &[KernelSpec], args: &Args) -> Result<ExitCode> {
    let _ = (args.isa, &args.snapshot, args.update);
    anyhow::bail!("--stats is not in this build: cargo run --features shader-stats -- shaders --stats gfx1151")
}
