//! What an adapter can do, and the tiers of kernel variants that follow from it.

use super::{Error, Result};
use std::fmt;
use std::str::FromStr;

/// A ceiling on the variants that kernels may take. Each tier holds all before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// Plain WGSL: workgroup reductions, f32.
    Core,
    /// Subgroup reductions, f32.
    Subgroup,
    /// f16 arithmetic and storage.
    F16,
    /// Packed 8-bit integer dot product, activations rounded per block.
    Dot,
    /// Cooperative matrices.
    Matrix,
}

impl Tier {
    pub const ALL: [Tier; 5] = [Tier::Core, Tier::Subgroup, Tier::F16, Tier::Dot, Tier::Matrix];

    pub const fn name(self) -> &'static str {
        match self {
            Tier::Core => "core",
            Tier::Subgroup => "subgroup",
            Tier::F16 => "f16",
            Tier::Dot => "dot",
            Tier::Matrix => "matrix",
        }
    }

    /// Whether results on this tier are those of f32 arithmetic.
    pub fn is_f32(self) -> bool {
        self <= Tier::Subgroup
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Tier {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        Tier::ALL.into_iter().find(|t| t.to_string() == s).ok_or_else(|| Error::UnknownTier(s.into()))
    }
}

/// Keys of the tuning table: kinds of device that like different workgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeviceClass {
    /// Any hardware GPU.
    Gpu,
    /// A software device: a workgroup is a loop over SIMD lanes, a barrier splits the loop.
    Cpu,
}

/// The facts about a device on which the choice of variants depends.
#[derive(Clone, Debug)]
pub struct Caps {
    /// The highest tier whose kernels this device can run.
    pub tier: Tier,
    pub class: DeviceClass,
    /// Invocations of a subgroup, smallest and largest; (0, 0) without subgroups.
    pub subgroup: (u32, u32),
    /// Rows and columns of the cooperative matrices that kernels use, f16 with sums in f32: 16 or 8.
    pub matrix: Option<u32>,
    /// Whether kernels may write timestamps between dispatches of one pass.
    pub timestamps_in_pass: bool,
    /// Bytes that one binding can span.
    pub max_binding: u64,
    /// Bytes that one buffer can hold.
    pub max_buffer: u64,
    /// Bytes of weights that lie in one buffer: the lesser of the two, unless a test sets less.
    pub max_shard: u64,
    /// The same of a layer's keys or values.
    pub max_cache_shard: u64,
    /// Storage buffers that one kernel can bind.
    pub storage_buffers: u32,
    /// Bytes of alignment of a uniform binding's offset.
    pub uniform_alignment: u32,
    /// Bytes of alignment of a storage binding's offset.
    pub storage_alignment: u32,
}

impl Caps {
    /// What kernels can rely on, from a device's features and limits and its adapter's description. `matrices` are the
    /// adapter's; without any that kernels use, the feature counts for nothing.
    pub fn new(
        mut features: wgpu::Features,
        limits: &wgpu::Limits,
        info: &wgpu::AdapterInfo,
        matrices: &[wgpu::CooperativeMatrixProperties],
    ) -> Self {
        let matrix = matrix_side(matrices).filter(|_| features.contains(MATRIX));
        features.set(MATRIX, matrix.is_some());
        let class = if info.device_type == wgpu::DeviceType::Cpu { DeviceClass::Cpu } else { DeviceClass::Gpu };
        let subgroup = if features.contains(wgpu::Features::SUBGROUP) {
            (info.subgroup_min_size, info.subgroup_max_size)
        } else {
            (0, 0)
        };
        let max_shard = limits.max_storage_buffer_binding_size.min(limits.max_buffer_size);
        Caps {
            tier: Tier::ALL.into_iter().rev().find(|&t| missing(t, features).is_empty()).unwrap_or(Tier::Core),
            class,
            subgroup,
            matrix,
            timestamps_in_pass: features.contains(wgpu::Features::TIMESTAMP_QUERY_INSIDE_PASSES),
            max_binding: limits.max_storage_buffer_binding_size,
            max_buffer: limits.max_buffer_size,
            max_shard,
            max_cache_shard: max_shard,
            storage_buffers: limits.max_storage_buffers_per_shader_stage,
            uniform_alignment: limits.min_uniform_buffer_offset_alignment,
            storage_alignment: limits.min_storage_buffer_offset_alignment,
        }
    }
}

const MATRIX: wgpu::Features = wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX;

/// The largest square of f16 with sums in f32 that kernels are written for.
pub fn matrix_side(matrices: &[wgpu::CooperativeMatrixProperties]) -> Option<u32> {
    use wgpu::CooperativeScalarType::{F16, F32};
    let fits = |m: &&wgpu::CooperativeMatrixProperties| {
        [m.ab_type, m.cr_type] == [F16, F32] && [8, 16].contains(&m.k_size) && [m.m_size, m.n_size] == [m.k_size; 2]
    };
    matrices.iter().filter(fits).map(|m| m.k_size).max()
}

/// The features that `tier` needs and `features` does not hold, by name; empty when the tier can be had.
pub fn missing(tier: Tier, features: wgpu::Features) -> Vec<&'static str> {
    let needs = [
        (Tier::Subgroup, wgpu::Features::SUBGROUP, "SUBGROUP"),
        (Tier::F16, wgpu::Features::SHADER_F16, "SHADER_F16"),
        (Tier::Matrix, MATRIX, "EXPERIMENTAL_COOPERATIVE_MATRIX of f16"),
    ];
    needs.into_iter().filter(|(t, f, _)| *t <= tier && !features.contains(*f)).map(|(_, _, name)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matrices_are_square_f16_with_f32_sums() {
        use wgpu::CooperativeScalarType::{F16, F32};
        let of = |[m_size, n_size, k_size]: [u32; 3], ab_type, cr_type| wgpu::CooperativeMatrixProperties {
            m_size,
            n_size,
            k_size,
            ab_type,
            cr_type,
            saturating_accumulation: false,
        };
        assert_eq!(matrix_side(&[of([16; 3], F16, F16), of([8, 8, 16], F16, F32), of([8; 3], F32, F32)]), None);
        assert_eq!(matrix_side(&[of([8; 3], F16, F32)]), Some(8));
        assert_eq!(matrix_side(&[of([16; 3], F16, F32), of([8; 3], F16, F32)]), Some(16));
    }

    #[test]
    fn tiers_round_trip_and_nest() {
        for tier in Tier::ALL {
            assert_eq!(tier.to_string().parse::<Tier>().unwrap(), tier);
        }
        assert!("fast".parse::<Tier>().unwrap_err().to_string().contains("subgroup"));
        assert_eq!(missing(Tier::Dot, wgpu::Features::SUBGROUP), ["SHADER_F16"]);
        assert!(missing(Tier::Core, wgpu::Features::empty()).is_empty());
    }
}
