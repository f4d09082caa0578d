//! Every shader in every variant that the operators record: composed, validated, within WebGPU's default limits, and
//! translated to SPIR-V, MSL and HLSL. No device is needed.

use halogen::formats::Format;
use halogen::gpu::{BindingKind, DeviceClass, KernelSpec, SHADERS, compose, reflect};
use halogen::ops::Tuning;
use naga::back::{hlsl, msl, spv};
use naga::valid::{Capabilities, ModuleInfo, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator};
use std::collections::BTreeSet;

/// All of `specs` with and without each flag.
fn each(specs: Vec<KernelSpec>, flags: &[&'static str]) -> Vec<KernelSpec> {
    flags.iter().fold(specs, |specs, flag| specs.into_iter().flat_map(|s| [s.clone(), s.flag(flag, true)]).collect())
}

/// All of `specs` with at most one of the flags.
fn one_of(specs: Vec<KernelSpec>, flags: &[&'static str]) -> Vec<KernelSpec> {
    specs
        .into_iter()
        .flat_map(|s| std::iter::once(s.clone()).chain(flags.iter().map(move |flag| s.clone().flag(flag, true))))
        .collect()
}

fn all_of(spec: KernelSpec, flags: &[&'static str]) -> KernelSpec {
    flags.iter().fold(spec, |spec, flag| spec.flag(flag, true))
}

/// The variants on one row of the tuning table. Formats differ in nothing but their snippet, so all but two of them meet
/// few flags.
fn variants(t: &Tuning) -> Vec<KernelSpec> {
    let mut all = Vec::new();
    let epilogues = ["RESIDUAL", "SWIGLU", "SILU_MUL"];
    let new = KernelSpec::new;
    for &format in Format::ALL {
        let usual = [Format::F16, Format::Q4K].contains(&format);
        let matvec = new("matvec").size("WG", t.matvec.0).format(format).size("ROWS", t.matvec.1);
        let down = new("expert_down").size("WG", t.matvec.0).format(format).size("ROWS", t.matvec.1);
        let m = t.matmul;
        let matmul = new("matmul").size("BM", m.bm).size("BN", m.bn).size("TM", m.tm).size("TN", m.tn);
        let matmul = matmul.size("RUNS", m.runs).format(format);
        let grouped = |flags: &[&'static str]| all_of(matmul.clone().flag("GROUPED", true), flags);
        if usual {
            all.extend(each(one_of(vec![matvec.clone()], &epilogues), &["NORM", "BIAS", "RAGGED", "SUBGROUP"]));
            all.extend(each(one_of(vec![matmul.clone()], &epilogues), &["BIAS"]));
        }
        let expert = all_of(matvec, &["EXPERT", "NORM"]);
        all.extend(each(one_of(vec![expert], &epilogues[1..]), &["RAGGED", "SUBGROUP"]));
        all.extend(each(vec![down], &["SUBGROUP"]));
        all.extend([&["GATHER"][..], &["GATHER", "SWIGLU"], &["GATHER", "SILU_MUL"], &["SCATTER"]].map(grouped));
        all.push(matmul);
        all.push(new("embed").format(format).size("WG", t.row));
    }
    for dim in [16, 20, 32, 64, 80, 96, 112, 128, 192, 256] {
        let heads = new("heads").size("WG", t.row).size("HEAD_DIM", dim);
        all.extend(each(vec![heads], &["QK_NORM", "ADJACENT", "KV_F16", "SUBGROUP"]));
        for rows in (0..).map(|i| 1 << i).take_while(|rows| *rows <= t.attention.1) {
            let attention = new("attention").size("WG", t.attention.0).size("ROWS", rows).size("HEAD_DIM", dim);
            all.extend(each(vec![attention], &["KV_F16", "SPLIT"]));
        }
        all.push(new("attention_combine").size("WG", t.row.min(dim / 4)).size("HEAD_DIM", dim));
    }
    for experts in [2, 8, 64, 128, 512, 1024] {
        let router = new("router").size("WG", t.wide.min(experts)).size("EXPERTS", experts);
        all.extend(each(vec![router], &["RENORMALISE"]));
        all.push(new("expert_group").size("WG", t.wide).size("BN", t.matmul.bn).size("EXPERTS", experts - 1));
    }
    let stream = new("stream").size("WG", t.wide);
    all.push(stream.clone());
    all.extend(["FILL", "TICK", "MULTIPLY_ADD"].map(|flag| stream.clone().flag(flag, true)));
    all.extend(each(vec![new("rms_norm").size("WG", t.row)], &["SUBGROUP"]));
    all.push(new("expert_combine").size("WG", t.wide));
    all.push(new("sample_slices").size("WG", t.wide));
    all.push(new("sample").size("WG", t.wide).flag("STATE_WRITE", true));
    all
}

/// Runs `check` on every variant and reports all failures at once.
fn for_each(check: impl Fn(&KernelSpec, &naga::Module, &ModuleInfo) -> Result<(), String>) {
    let mut failures = Vec::new();
    for class in [DeviceClass::Gpu, DeviceClass::Cpu] {
        for spec in variants(Tuning::of(class)) {
            if let Err(e) = module(&spec).and_then(|(module, info)| check(&spec, &module, &info)) {
                failures.push(format!("{spec}: {e}"));
            }
        }
    }
    assert!(
        failures.is_empty(),
        "{} variants fail:\n{}",
        failures.len(),
        failures[..failures.len().min(10)].join("\n")
    );
}

/// Parsed and validated with no capability but subgroups and unpack2x16float, which naga counts as one.
fn module(spec: &KernelSpec) -> Result<(naga::Module, ModuleInfo), String> {
    let source = compose(spec).map_err(|e| e.to_string())?.wgsl;
    let module = naga::front::wgsl::parse_str(&source).map_err(|e| e.emit_to_string(&source))?;
    let mut capabilities = Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    if spec.flags.contains("SUBGROUP") {
        capabilities |= Capabilities::SUBGROUP;
    }
    let info = Validator::new(ValidationFlags::all(), capabilities)
        .subgroup_stages(ShaderStages::COMPUTE)
        .subgroup_operations(SubgroupOperationSet::all())
        .validate(&module)
        .map_err(|e| e.emit_to_string(&source))?;
    Ok((module, info))
}

#[test]
fn the_list_names_every_shader() {
    let listed: BTreeSet<&str> = variants(Tuning::of(DeviceClass::Gpu)).iter().map(|s| s.shader).collect();
    let all: BTreeSet<&str> = SHADERS.iter().map(|(name, _)| *name).filter(|n| !n.starts_with("lib/")).collect();
    assert_eq!(listed, all);
}

/// What every WebGPU device offers: 8 storage buffers, 256 invocations, 16 KiB of workgroup memory.
#[test]
fn variants_fit_the_default_limits() {
    for_each(|_, module, _| {
        let (bindings, _, _) = reflect(module);
        let buffers = bindings.iter().filter(|b| b.kind != BindingKind::Uniform).count();
        let indices: BTreeSet<u32> = bindings.iter().map(|b| b.index).collect();
        let size: u32 = module.entry_points[0].workgroup_size.iter().product();
        let mut layouter = naga::proc::Layouter::default();
        layouter.update(module.to_ctx()).map_err(|e| e.to_string())?;
        let workgroup = module.global_variables.iter().filter(|(_, v)| v.space == naga::AddressSpace::WorkGroup);
        let bytes: u32 = workgroup.map(|(_, v)| layouter[v.ty].size.next_multiple_of(16)).sum();
        if buffers <= 8 && indices.len() == bindings.len() && size <= 256 && bytes <= 16384 {
            return Ok(());
        }
        Err(format!("{buffers} storage buffers, bindings {indices:?}, {size} invocations, {bytes} workgroup bytes"))
    });
}

#[test]
fn variants_translate_to_spirv() {
    let options = spv::Options { lang_version: (1, 3), ..Default::default() };
    for_each(|_, module, info| spv::write_vec(module, info, &options, None).map(drop).map_err(|e| e.to_string()));
}

#[test]
fn variants_translate_to_msl() {
    let options = msl::Options { lang_version: (2, 4), fake_missing_bindings: true, ..Default::default() };
    for_each(|_, module, info| {
        let text = msl::write_string(module, info, &options, &Default::default()).map_err(|e| e.to_string())?;
        if text.0.is_empty() { Err("empty".into()) } else { Ok(()) }
    });
}

#[test]
fn variants_translate_to_hlsl() {
    let shader_model = hlsl::ShaderModel::V6_0;
    let options = hlsl::Options { shader_model, fake_missing_bindings: true, ..Default::default() };
    for_each(|_, module, info| {
        let mut text = String::new();
        let reflection = hlsl::Writer::new(&mut text, &options, &Default::default()).write(module, info, None);
        reflection.map(drop).map_err(|e| e.to_string())
    });
}
