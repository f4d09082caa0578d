//! A kernel's WGSL and its translations, as wgpu makes them: no bounds checks, no zeroed workgroup memory.

use anyhow::{Result, anyhow, bail};
use halogen::gpu::{KernelSpec, compose, parse};
use naga::back::{hlsl, msl, spv};
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy::Unchecked};
use naga::valid::{Capabilities, ModuleInfo, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator};

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Language {
    Wgsl,
    Spirv,
    Msl,
    Hlsl,
}

impl Language {
    pub fn extension(self) -> &'static str {
        match self {
            Language::Wgsl => "wgsl",
            Language::Spirv => "spv",
            Language::Msl => "metal",
            Language::Hlsl => "hlsl",
        }
    }
}

const UNCHECKED: BoundsCheckPolicies =
    BoundsCheckPolicies { index: Unchecked, buffer: Unchecked, image_load: Unchecked, binding_array: Unchecked };

/// The module of a kernel, validated, for HLSL or another language.
pub fn module(spec: &KernelSpec, hlsl: bool) -> Result<(naga::Module, ModuleInfo)> {
    let (source, module) = (compose(spec)?.wgsl, parse(spec, hlsl)?);
    let info = Validator::new(ValidationFlags::all(), Capabilities::all())
        .subgroup_stages(ShaderStages::COMPUTE)
        .subgroup_operations(SubgroupOperationSet::all())
        .validate(&module)
        .map_err(|e| anyhow!("{spec}: {}", e.emit_to_string(&source)))?;
    Ok((module, info))
}

/// A module in SPIR-V 1.6, as wgpu's Vulkan back end writes it for Vulkan 1.3.
pub fn spirv(module: &naga::Module, info: &ModuleInfo) -> Result<Vec<u32>> {
    let options = spv::Options {
        lang_version: (1, 6),
        flags: spv::WriterFlags::empty(),
        bounds_check_policies: UNCHECKED,
        zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
        force_loop_bounding: false,
        emit_int_div_checks: false,
        ..Default::default()
    };
    Ok(spv::write_vec(module, info, &options, None)?)
}

/// Why a kernel has no translation.
pub fn untranslatable(spec: &KernelSpec, language: Language) -> Option<&'static str> {
    let side_16 = spec.flags.contains("SIDE_16");
    match language {
        Language::Hlsl if spec.flags.contains("MATRIX") => Some("HLSL has no cooperative matrices"),
        Language::Msl if side_16 => Some("Metal's matrices are 8 x 8; naga would write a type that does not exist"),
        _ => None,
    }
}

pub fn emit(spec: &KernelSpec, language: Language) -> Result<Vec<u8>> {
    if language == Language::Wgsl {
        return Ok(compose(spec)?.wgsl.into_bytes());
    }
    if let Some(why) = untranslatable(spec, language) {
        bail!("{spec}: {why}");
    }
    let (module, info) = module(spec, language == Language::Hlsl)?;
    Ok(match language {
        Language::Wgsl => unreachable!("returned above"),
        Language::Spirv => bytemuck::cast_slice(&spirv(&module, &info)?).to_vec(),
        Language::Msl => {
            let options = msl::Options {
                lang_version: (2, 4),
                fake_missing_bindings: true,
                bounds_check_policies: UNCHECKED,
                zero_initialize_workgroup_memory: false,
                force_loop_bounding: false,
                emit_int_div_checks: false,
                ..Default::default()
            };
            msl::write_string(&module, &info, &options, &Default::default())?.0.into_bytes()
        }
        Language::Hlsl => {
            let options = hlsl::Options {
                // The first with the packed integer dot product; 16-bit types came before it.
                shader_model: hlsl::ShaderModel::V6_4,
                fake_missing_bindings: true,
                restrict_indexing: false,
                zero_initialize_workgroup_memory: false,
                force_loop_bounding: false,
                ..Default::default()
            };
            let mut text = String::new();
            hlsl::Writer::new(&mut text, &options, &Default::default()).write(&module, &info, None)?;
            text.into_bytes()
        }
    })
}
