//! `halogen shaders --stats`: finds a RADV driver that compiles for an absent GPU, and prints what it makes of kernels.

use super::radv::{Compiled, Driver};
use super::{Args, emit, output, simplest, success};
use anyhow::{Context, Result, bail};
use halogen::gpu::KernelSpec;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const HOW: &str = "RADV compiles for a GPU that is not here with Mesa's null device: Mesa 25.0 has it, 26 has it no longer. \
    scripts/shader-stats.sh gets one and runs this; or set HALOGEN_RADV_ICD to the path of such a Mesa's radeon_icd.x86_64.json";

/// The driver reads this when it is loaded, so that it must be set before the process starts.
const FAMILY: &str = "RADV_FORCE_FAMILY";

/// Heads of the table and RADV's names of what stands below them: bytes of code, scratch and workgroup memory; waves that
/// a SIMD can hold; instructions in the code, which loops run more than once.
const COLUMNS: &[(&str, &str)] = &[
    ("VGPR", "VGPRs"),
    ("waves", "Subgroups per SIMD"),
    ("spills", "Spilled VGPRs"),
    ("scrtch", "Scratch size"),
    ("LDS", "LDS size"),
    ("code", "Code size"),
    ("VALU", "VALU"),
    ("SALU", "SALU"),
    ("VMEM", "VMEM"),
    ("SMEM", "SMEM"),
    ("SGPR", "Pre-Sched SGPRs"),
];

pub fn run(family: &str, specs: &[KernelSpec], args: &Args) -> Result<ExitCode> {
    if std::env::var(FAMILY).as_deref() != Ok(family) {
        return again(family);
    }
    let driver = Driver::open().with_context(|| format!("no RADV for {family}. {HOW}"))?;
    let (specs, others): (Vec<_>, Vec<_>) = specs.iter().cloned().partition(|spec| driver.takes(spec));
    if !others.is_empty() {
        output::note(format_args!(
            "{} variants left out: {} has no such cooperative matrices",
            others.len(),
            driver.name
        ));
    }
    anyhow::ensure!(!specs.is_empty(), "no variant is left");
    let specs = &specs[..];
    if args.isa {
        let compiled = compile(&driver, simplest(specs), true)?;
        output::print(format_args!("{}\n{}\n", simplest(specs), compiled.isa))?;
        return success();
    }
    if let Some(path) = &args.snapshot {
        return snapshot(&driver, specs, path, args.update);
    }
    if args.json {
        let mut all = serde_json::Map::new();
        for spec in specs {
            let compiled = compile(&driver, spec, false)?;
            let mut value: serde_json::Map<_, _> =
                compiled.statistics.into_iter().map(|(name, value)| (name, value.into())).collect();
            value.insert("Subgroup size".into(), compiled.subgroup.into());
            all.insert(spec.to_string(), value.into());
        }
        output::print_json(&serde_json::json!({ "family": family, "driver": driver.name, "variants": all }))?;
        return success();
    }
    output::print(format_args!("{}\n", driver.name))?;
    let heads: Vec<String> = COLUMNS.iter().map(|(head, _)| format!("{head:>6}")).collect();
    output::print(format_args!("{} subgroup  variant\n", heads.join(" ")))?;
    for spec in specs {
        let compiled = compile(&driver, spec, false)?;
        let values: Vec<String> = COLUMNS.iter().map(|(_, name)| format!("{:>6}", compiled.value(name))).collect();
        output::print(format_args!("{} {:>8}  {spec}\n", values.join(" "), compiled.subgroup))?;
    }
    success()
}

/// What a snapshot keeps of a variant, in its order.
const KEPT: [&str; 4] = ["VGPRs", "Subgroups per SIMD", "VALU", "Code size"];
const MUST_BE_ZERO: [&str; 3] = ["Spilled VGPRs", "Spilled SGPRs", "Scratch size"];

/// Fails on spills and scratch; else says what changed, and keeps it if asked.
fn snapshot(driver: &Driver, specs: &[KernelSpec], path: &Path, update: bool) -> Result<ExitCode> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|_| "{}".into());
    let before: BTreeMap<String, [u64; 4]> = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
    let (mut lines, mut changed, mut failed) = (Vec::new(), 0, 0);
    for spec in specs {
        let name = spec.to_string();
        let compiled = compile(driver, spec, false)?;
        for what in MUST_BE_ZERO.iter().filter(|what| compiled.value(what) != 0) {
            output::note(format_args!("{name}: {what} {}", compiled.value(what)));
            failed += 1;
        }
        let now = KEPT.map(|what| compiled.value(what));
        match before.get(&name) {
            Some(then) if *then != now => {
                changed += 1;
                let differs = KEPT.iter().zip(then.iter().zip(now)).filter(|(_, (then, now))| *then != now);
                let differs: Vec<String> = differs.map(|(w, (then, now))| format!("{w} {then} -> {now}")).collect();
                output::print(format_args!("{name}: {}\n", differs.join(", ")))?;
            }
            Some(_) => {}
            None if text.len() > 2 => output::print(format_args!("{name}: new\n"))?,
            None => {}
        }
        lines.push(format!("\"{name}\": {now:?}"));
    }
    let kept = if update { "kept now" } else { "--update keeps it" };
    output::print(format_args!("{}: {} variants, {changed} changed ({kept})\n", driver.name, specs.len()))?;
    if update {
        std::fs::write(path, format!("{{\n{}\n}}\n", lines.join(",\n"))).with_context(|| path.display().to_string())?;
    }
    anyhow::ensure!(failed == 0, "{failed} spills or uses of scratch memory");
    success()
}

fn compile(driver: &Driver, spec: &KernelSpec, isa: bool) -> Result<Compiled> {
    let (module, info) = emit::module(spec, false)?;
    driver.compile(&module, &emit::spirv(&module, &info)?, isa).with_context(|| format!("{spec}"))
}

/// This command once more, in the environment in which RADV takes `family` for present.
fn again(family: &str) -> Result<ExitCode> {
    let Some(icd) = icd() else { bail!("no RADV driver found. {HOW}") };
    let mut command = Command::new(std::env::current_exe()?);
    command.args(std::env::args_os().skip(1));
    command.env(FAMILY, family).env("VK_ICD_FILENAMES", &icd).env("VK_DRIVER_FILES", &icd);
    command.env("MESA_SHADER_CACHE_DISABLE", "true");
    if let Some(folder) = library_folder(&icd) {
        // Beside the driver lie the libraries of its own version.
        command.env("LD_LIBRARY_PATH", folder);
    }
    let status = command.status()?;
    Ok(ExitCode::from(status.code().and_then(|c| u8::try_from(c).ok()).unwrap_or(1)))
}

fn icd() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("HALOGEN_RADV_ICD") {
        return Some(path.into());
    }
    let folders = ["/usr/share/vulkan/icd.d", "/etc/vulkan/icd.d"];
    let paths = folders.iter().map(|folder| Path::new(folder).join("radeon_icd.x86_64.json"));
    paths.into_iter().find(|path| path.exists())
}

/// Where the library lies that a driver's manifest names by an absolute path.
fn library_folder(icd: &Path) -> Option<PathBuf> {
    let manifest: serde_json::Value = serde_json::from_slice(&std::fs::read(icd).ok()?).ok()?;
    let library = Path::new(manifest["ICD"]["library_path"].as_str()?).to_path_buf();
    library.is_absolute().then(|| library.parent().map(Path::to_path_buf))?
}
