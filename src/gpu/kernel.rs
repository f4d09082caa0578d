//! Compiled kernels. A shader states its own bindings: they are read from the module by name.

use super::{Error, Gpu, KernelSpec, Result, compose};
use naga::{AddressSpace, StorageAccess, TypeInner};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// How a kernel sees a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BindingKind {
    Read,
    Write,
    Uniform,
}

/// One binding of a kernel, as its shader declares it.
#[derive(Clone, Debug)]
pub struct Binding {
    pub name: String,
    pub index: u32,
    pub kind: BindingKind,
}

/// A kernel, ready to dispatch.
pub struct Kernel {
    pub spec: KernelSpec,
    pub bindings: Vec<Binding>,
    /// The fields of the uniform `params` and their byte offsets.
    pub params: Vec<(String, u32)>,
    pub(super) params_size: u64,
    pub(super) pipeline: wgpu::ComputePipeline,
    pub(super) layout: wgpu::BindGroupLayout,
}

/// A kernel's module, unvalidated. `hlsl`: with what naga 30 needs to write it in HLSL. It gives inputs of subgroups a value only
/// where one is an argument of its own, not where all are members of a struct; so there is one more argument, which nothing reads.
///
/// # Errors
/// WGSL that naga does not take, with its place.
pub fn parse(spec: &KernelSpec, hlsl: bool) -> Result<naga::Module> {
    let text = compose(spec)?.wgsl;
    let mut module = naga::front::wgsl::parse_str(&text)
        .map_err(|e| Error::Shader { kernel: spec.to_string(), message: e.emit_to_string(&text) })?;
    if hlsl && spec.flags.contains("SUBGROUP") {
        let inner = TypeInner::Scalar(naga::Scalar::U32);
        let ty = module.types.insert(naga::Type { name: None, inner }, naga::Span::UNDEFINED);
        let binding = Some(naga::Binding::BuiltIn(naga::BuiltIn::SubgroupSize));
        for entry in &mut module.entry_points {
            entry.function.arguments.push(naga::FunctionArgument { name: None, ty, binding: binding.clone() });
        }
    }
    Ok(module)
}

/// The bindings of a module, by rising index, and the layout of its `params`: fields with byte offsets, and size.
pub fn reflect(module: &naga::Module) -> (Vec<Binding>, Vec<(String, u32)>, u64) {
    let mut bindings = Vec::new();
    let (mut params, mut params_size) = (Vec::new(), 0);
    for (_, variable) in module.global_variables.iter() {
        let (Some(at), Some(name)) = (&variable.binding, &variable.name) else { continue };
        let kind = match variable.space {
            AddressSpace::Uniform => BindingKind::Uniform,
            AddressSpace::Storage { access } if access.contains(StorageAccess::STORE) => BindingKind::Write,
            AddressSpace::Storage { .. } => BindingKind::Read,
            _ => continue,
        };
        if let (true, TypeInner::Struct { members, span }) = (name == "params", &module.types[variable.ty].inner) {
            params = members.iter().map(|m| (m.name.clone().unwrap_or_default(), m.offset)).collect();
            params_size = u64::from(*span);
        }
        bindings.push(Binding { name: name.clone(), index: at.binding, kind });
    }
    bindings.sort_by_key(|b| b.index);
    (bindings, params, params_size)
}

impl Kernel {
    fn compile(gpu: &Gpu, spec: &KernelSpec) -> Result<Kernel> {
        let name = spec.to_string();
        let module = parse(spec, gpu.info().backend == wgpu::Backend::Dx12)?;
        let (bindings, params, params_size) = reflect(&module);
        let entries: Vec<_> = bindings.iter().map(|b| layout_entry(b, params_size)).collect();
        let (layout, pipeline) = gpu.scoped(&name, |device| {
            let layout = device
                .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some(&name), entries: &entries });
            let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: Some(&name),
                bind_group_layouts: &[Some(&layout)],
                immediate_size: 0,
            });
            let descriptor = wgpu::ShaderModuleDescriptor {
                label: Some(&name),
                source: wgpu::ShaderSource::Naga(std::borrow::Cow::Owned(module)),
            };
            // SAFETY: operators check every shape, offset and grid on the host before they dispatch, and each index a
            // kernel takes from GPU memory (token, expert, slot) was checked or computed below its bound.
            let shader =
                unsafe { device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked()) };
            let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(&name),
                layout: Some(&pipeline_layout),
                module: &shader,
                entry_point: None,
                // Every kernel writes workgroup memory before it reads it.
                compilation_options: wgpu::PipelineCompilationOptions {
                    zero_initialize_workgroup_memory: false,
                    ..Default::default()
                },
                cache: gpu.pipeline_cache(),
            });
            (layout, pipeline)
        })?;
        Ok(Kernel { spec: spec.clone(), bindings, params, params_size, pipeline, layout })
    }

    pub(super) fn error_bindings(&self) -> String {
        self.bindings.iter().map(|b| b.name.as_str()).collect::<Vec<_>>().join(", ")
    }
}

fn layout_entry(binding: &Binding, params_size: u64) -> wgpu::BindGroupLayoutEntry {
    let is_params = binding.name == "params";
    wgpu::BindGroupLayoutEntry {
        binding: binding.index,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer {
            ty: match binding.kind {
                BindingKind::Uniform => wgpu::BufferBindingType::Uniform,
                kind => wgpu::BufferBindingType::Storage { read_only: kind == BindingKind::Read },
            },
            has_dynamic_offset: is_params,
            min_binding_size: wgpu::BufferSize::new(if is_params { params_size } else { 0 }),
        },
        count: None,
    }
}

/// Kernels by spec; the lock is not held while one compiles.
#[derive(Default)]
pub(super) struct KernelCache {
    kernels: Mutex<HashMap<KernelSpec, Arc<Kernel>>>,
}

impl KernelCache {
    pub fn get(&self, gpu: &Gpu, spec: &KernelSpec) -> Result<Arc<Kernel>> {
        if let Some(kernel) = self.lock().get(spec) {
            return Ok(kernel.clone());
        }
        let kernel = Arc::new(Kernel::compile(gpu, spec)?);
        Ok(self.lock().entry(spec.clone()).or_insert(kernel).clone())
    }

    pub fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<KernelSpec, Arc<Kernel>>> {
        self.kernels.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
