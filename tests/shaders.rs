//! Every shader in every variant that the operators record: composed, validated, within WebGPU's default limits, and
//! translated to SPIR-V, MSL and HLSL. No device is needed.

use halogen::gpu::{BindingKind, DeviceClass, KernelSpec, SHADERS, compose, parse, reflect};
use halogen::ops::{Tuning, variants};
use naga::back::{hlsl, msl, spv};
use naga::valid::{Capabilities, ModuleInfo, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator};
use std::collections::BTreeSet;

/// Runs `check` on every variant, for HLSL or other languages, and reports all failures at once.
fn for_each(hlsl: bool, check: impl Fn(&KernelSpec, &naga::Module, &ModuleInfo) -> Result<(), String>) {
    let mut failures = Vec::new();
    for class in [DeviceClass::Gpu, DeviceClass::Cpu] {
        for spec in variants(Tuning::of(class)) {
            if let Err(e) = module(&spec, hlsl).and_then(|(module, info)| check(&spec, &module, &info)) {
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

/// Parsed and validated with no capability but those that a flag stands for, and unpack2x16float, which naga counts as one.
fn module(spec: &KernelSpec, hlsl: bool) -> Result<(naga::Module, ModuleInfo), String> {
    let source = compose(spec).map_err(|e| e.to_string())?.wgsl;
    let module = parse(spec, hlsl).map_err(|e| e.to_string())?;
    let mut capabilities = Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    if spec.flags.contains("SUBGROUP") {
        capabilities |= Capabilities::SUBGROUP;
    }
    let matrix = spec.flags.contains("MATRIX");
    if matrix || spec.flags.contains("F16") {
        capabilities |= Capabilities::SHADER_FLOAT16;
    }
    if matrix {
        // A subgroup's number comes with subgroups.
        capabilities |= Capabilities::COOPERATIVE_MATRIX | Capabilities::SUBGROUP;
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
    for_each(false, |_, module, _| {
        let (bindings, _, _) = reflect(module);
        // Further shards of a stack are bound where the device has room for them.
        let more = |name: &str| name.starts_with("weights_");
        let buffers = bindings.iter().filter(|b| b.kind != BindingKind::Uniform && !more(&b.name)).count();
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
    for_each(false, |spec, module, info| {
        // Cooperative matrices came with SPIR-V 1.6.
        let lang_version = if spec.flags.contains("MATRIX") { (1, 6) } else { (1, 3) };
        let options = spv::Options { lang_version, ..Default::default() };
        spv::write_vec(module, info, &options, None).map(drop).map_err(|e| e.to_string())
    });
}

#[test]
fn variants_translate_to_msl() {
    let options = msl::Options { lang_version: (2, 4), fake_missing_bindings: true, ..Default::default() };
    for_each(false, |spec, module, info| {
        // Metal's matrices are 8 x 8: naga writes a type for 16 x 16 that does not exist.
        if spec.flags.contains("SIDE_16") {
            return Ok(());
        }
        let text = msl::write_string(module, info, &options, &Default::default()).map_err(|e| e.to_string())?;
        if text.0.is_empty() { Err("empty".into()) } else { Ok(()) }
    });
}

#[test]
fn variants_translate_to_hlsl() {
    let shader_model = hlsl::ShaderModel::V6_2;
    let options = hlsl::Options { shader_model, fake_missing_bindings: true, ..Default::default() };
    for_each(true, |spec, module, info| {
        // HLSL has no cooperative matrices, nor has wgpu on DX12: no adapter there offers the tier.
        if spec.flags.contains("MATRIX") {
            return Ok(());
        }
        let mut text = String::new();
        let reflection = hlsl::Writer::new(&mut text, &options, &Default::default()).write(module, info, None);
        reflection.map_err(|e| e.to_string())?;
        match without_semantic(&text) {
            Some(input) => Err(format!("DXC refuses inputs without a semantic: `{input}`")),
            None => Ok(()),
        }
    });
}

/// The first input of HLSL's `main`, or member of a struct among them, that has no semantic.
fn without_semantic(hlsl: &str) -> Option<&str> {
    let between = |from: &str, to: char| hlsl.split_once(from)?.1.split(to).next();
    let bare = |input: &&str| !input.contains(" : ");
    let inputs = between("void main(", ')').unwrap_or_default().split(", ").filter(bare);
    let members = |input: &str| between(&format!("struct {} {{", input.split(' ').next()?), '}');
    inputs.filter_map(members).flat_map(str::lines).filter(|line| line.contains(';')).find(bare)
}

/// Tint sets a variable that says no first value to zero once a call, not once a round, and so did naga before version 30: a sum
/// would go on from the last round's. With one said, both store it in each round.
#[test]
fn variables_in_loops_say_their_first_value() {
    let silent =
        |(name, source): &(&str, &'static str)| unset_in_loops(source).map(|line| format!("{name}: {line}")).collect();
    let silent: Vec<Vec<String>> = SHADERS.iter().map(silent).collect();
    assert_eq!(silent.concat(), Vec::<String>::new());
    let example = "for (;;) {\nif a {\nvar b: u32;\n}\nvar c = 0u;\n}\nvar d: u32;";
    assert_eq!(unset_in_loops(example).collect::<Vec<_>>(), ["var b: u32;"]);
}

/// The declarations within loops, of a source formatted as ours, that give no initial value.
fn unset_in_loops(source: &str) -> impl Iterator<Item = &str> {
    let mut loops = Vec::new(); // of the open braces, which are of loops
    let mut starts = false;
    source.lines().map(|line| line.split("//").next().unwrap_or_default().trim()).filter(move |code| {
        starts |= ["for ", "loop ", "while "].iter().any(|word| code.starts_with(word));
        for brace in code.chars().filter(|c| "{}".contains(*c)) {
            if brace == '{' {
                loops.push(std::mem::take(&mut starts));
            } else {
                loops.pop();
            }
        }
        loops.contains(&true) && code.starts_with("var ") && !code.contains('=')
    })
}
