//! A Vulkan device that only compiles: RADV without its GPU, asked for the statistics of compute pipelines
//! (VK_KHR_pipeline_executable_properties).

use anyhow::{Context, Result, bail};
use ash::{ext, khr, vk};
use halogen::gpu::{BindingKind, KernelSpec, reflect};
use std::ffi::CStr;

/// What the compiler made of a kernel.
pub struct Compiled {
    /// Invocations of a subgroup.
    pub subgroup: u32,
    /// By the driver's names, in its order: VGPRs, SGPRs, spills, LDS, scratch, code size, instructions by kind.
    pub statistics: Vec<(String, u64)>,
    pub isa: String,
}

impl Compiled {
    /// A statistic; 0 where the driver has none of that name.
    pub fn value(&self, name: &str) -> u64 {
        self.statistics.iter().find(|(n, _)| n == name).map_or(0, |s| s.1)
    }
}

/// An open device. It lives as long as the process: nothing is destroyed.
pub struct Driver {
    pub name: String,
    device: ash::Device,
    executables: khr::pipeline_executable_properties::Device,
    matrices: bool,
    // The loader unloads the driver with it.
    _entry: ash::Entry,
}

/// SAFETY, of all blocks below: handles come from the calls above them and are never destroyed, structures outlive the
/// calls that they are given to.
impl Driver {
    /// The first device of the loader's drivers.
    pub fn open() -> Result<Driver> {
        let entry = unsafe { ash::Entry::load() }.context("no Vulkan loader (Debian: libvulkan1)")?;
        let application = vk::ApplicationInfo::default().api_version(vk::API_VERSION_1_3);
        let create = vk::InstanceCreateInfo::default().application_info(&application);
        let instance = unsafe { entry.create_instance(&create, None) }?;
        let physical = *unsafe { instance.enumerate_physical_devices() }?.first().context("no device")?;

        let mut driver = vk::PhysicalDeviceDriverProperties::default();
        let mut properties = vk::PhysicalDeviceProperties2::default().push_next(&mut driver);
        unsafe { instance.get_physical_device_properties2(physical, &mut properties) };
        let device_name = text(properties.properties.device_name_as_c_str());
        let name =
            format!("{device_name}, {} {}", text(driver.driver_name_as_c_str()), text(driver.driver_info_as_c_str()));

        let offered = unsafe { instance.enumerate_device_extension_properties(physical) }?;
        let offers = |name: &CStr| offered.iter().any(|e| e.extension_name_as_c_str() == Ok(name));
        let wanted = [khr::pipeline_executable_properties::NAME, ext::robustness2::NAME];
        if let Some(missing) = wanted.iter().find(|name| !offers(name)) {
            bail!("{name} lacks {missing:?}");
        }
        // wgpu turns robust access on for the device, whatever a shader asks for; it bears on how loads are joined.
        let (mut v11, mut v12, mut v13) = Default::default();
        let mut executable = vk::PhysicalDevicePipelineExecutablePropertiesFeaturesKHR::default();
        let mut robustness = vk::PhysicalDeviceRobustness2FeaturesEXT::default();
        let mut matrix = vk::PhysicalDeviceCooperativeMatrixFeaturesKHR::default();
        let mut features = vk::PhysicalDeviceFeatures2::default()
            .push_next::<vk::PhysicalDeviceVulkan11Features>(&mut v11)
            .push_next::<vk::PhysicalDeviceVulkan12Features>(&mut v12)
            .push_next::<vk::PhysicalDeviceVulkan13Features>(&mut v13)
            .push_next(&mut executable)
            .push_next(&mut robustness);
        let matrices = offers(khr::cooperative_matrix::NAME);
        if matrices {
            features = features.push_next(&mut matrix);
        }
        unsafe { instance.get_physical_device_features2(physical, &mut features) };
        let queue = [vk::DeviceQueueCreateInfo::default().queue_family_index(0).queue_priorities(&[1.0])];
        let optional = matrices.then_some(khr::cooperative_matrix::NAME);
        let extensions: Vec<_> = wanted.into_iter().chain(optional).map(CStr::as_ptr).collect();
        let create = vk::DeviceCreateInfo::default()
            .queue_create_infos(&queue)
            .enabled_extension_names(&extensions)
            .push_next(&mut features);
        let device = unsafe { instance.create_device(physical, &create, None) }?;
        let executables = khr::pipeline_executable_properties::Device::new(&instance, &device);
        Ok(Driver { name, device, executables, matrices, _entry: entry })
    }

    /// Whether the GPU has what a kernel needs; of cooperative matrices AMD's have 16 x 16.
    pub fn takes(&self, spec: &KernelSpec) -> bool {
        !spec.flags.contains("MATRIX") || (self.matrices && spec.flags.contains("SIDE_16"))
    }

    /// Compiles a module with one entry point, as wgpu's Vulkan back end would have it compiled; with `isa` also
    /// disassembled.
    pub fn compile(&self, module: &naga::Module, spirv: &[u32], isa: bool) -> Result<Compiled> {
        let pipeline = unsafe { self.pipeline(module, spirv, isa) }?;
        let info = vk::PipelineInfoKHR::default().pipeline(pipeline);
        let executables = unsafe { self.executables.get_pipeline_executable_properties(&info) }?;
        let executable = vk::PipelineExecutableInfoKHR::default().pipeline(pipeline);
        let statistics = unsafe { self.executables.get_pipeline_executable_statistics(&executable) }?;
        let statistics = statistics.iter().map(|s| {
            // SAFETY: RADV's statistics are integers.
            (text(s.name_as_c_str()), unsafe { s.value.u64 })
        });
        let compiled = Compiled {
            subgroup: executables.first().context("the pipeline has no executable")?.subgroup_size,
            statistics: statistics.filter(|(name, _)| !name.to_lowercase().contains("hash")).collect(),
            isa: if isa { unsafe { self.isa(&executable) }? } else { String::new() },
        };
        unsafe { self.device.destroy_pipeline(pipeline, None) };
        Ok(compiled)
    }

    unsafe fn pipeline(&self, module: &naga::Module, spirv: &[u32], isa: bool) -> Result<vk::Pipeline> {
        let entries: Vec<_> = reflect(module)
            .0
            .iter()
            .map(|b| {
                let kind = match (b.kind, b.name.as_str()) {
                    (BindingKind::Uniform, "params") => vk::DescriptorType::UNIFORM_BUFFER_DYNAMIC,
                    (BindingKind::Uniform, _) => vk::DescriptorType::UNIFORM_BUFFER,
                    _ => vk::DescriptorType::STORAGE_BUFFER,
                };
                let entry = vk::DescriptorSetLayoutBinding::default().binding(b.index).descriptor_count(1);
                entry.descriptor_type(kind).stage_flags(vk::ShaderStageFlags::COMPUTE)
            })
            .collect();
        let create = vk::DescriptorSetLayoutCreateInfo::default().bindings(&entries);
        let set = unsafe { self.device.create_descriptor_set_layout(&create, None) }?;
        let sets = [set];
        let create = vk::PipelineLayoutCreateInfo::default().set_layouts(&sets);
        let layout = unsafe { self.device.create_pipeline_layout(&create, None) }?;
        let create = vk::ShaderModuleCreateInfo::default().code(spirv);
        let shader = unsafe { self.device.create_shader_module(&create, None) }?;
        let stage = vk::PipelineShaderStageCreateInfo::default()
            .stage(vk::ShaderStageFlags::COMPUTE)
            .flags(vk::PipelineShaderStageCreateFlags::ALLOW_VARYING_SUBGROUP_SIZE)
            .module(shader)
            .name(c"main");
        let mut capture = vk::PipelineCreateFlags::CAPTURE_STATISTICS_KHR;
        if isa {
            capture |= vk::PipelineCreateFlags::CAPTURE_INTERNAL_REPRESENTATIONS_KHR;
        }
        let create = [vk::ComputePipelineCreateInfo::default().stage(stage).layout(layout).flags(capture)];
        let made = unsafe { self.device.create_compute_pipelines(vk::PipelineCache::null(), &create, None) };
        unsafe { self.device.destroy_shader_module(shader, None) };
        match made {
            Ok(pipelines) => Ok(pipelines[0]),
            Err((_, error)) => bail!("the driver refuses it: {error}"),
        }
    }

    /// The last internal representation, which is the machine's.
    unsafe fn isa(&self, executable: &vk::PipelineExecutableInfoKHR) -> Result<String> {
        let get = self.executables.fp().get_pipeline_executable_internal_representations_khr;
        let device = self.device.handle();
        let mut count = 0;
        unsafe { get(device, executable, &mut count, std::ptr::null_mut()) }.result()?;
        let mut found = vec![vk::PipelineExecutableInternalRepresentationKHR::default(); count as usize];
        // Once for the sizes, once more for the texts.
        unsafe { get(device, executable, &mut count, found.as_mut_ptr()) }.result()?;
        let Some(last) = found.last().map(|f| f.data_size) else { return Ok(String::new()) };
        let mut bytes = vec![0u8; last];
        found.iter_mut().for_each(|f| f.data_size = 0);
        let slot = found.last_mut().expect("one at least");
        slot.data_size = last;
        slot.p_data = bytes.as_mut_ptr().cast();
        // INCOMPLETE: the other representations are not asked for.
        match unsafe { get(device, executable, &mut count, found.as_mut_ptr()) } {
            vk::Result::SUCCESS | vk::Result::INCOMPLETE => {}
            error => error.result()?,
        }
        bytes.truncate(bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len()));
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// A name that the driver gives.
fn text(name: std::result::Result<&CStr, std::ffi::FromBytesUntilNulError>) -> String {
    name.map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}
