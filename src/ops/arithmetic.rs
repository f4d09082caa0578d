//! In which arithmetic a matrix product is computed: a pure function of the tier's ceiling, of what the device was measured
//! to reach, of the weights' format, and of the product's kind and shape. `halogen shaders --explain` prints it.

use crate::formats::Format;
use crate::gpu::{DeviceProfile, KernelSpec, Tier};
use std::fmt;
use std::str::FromStr;

/// What the inner loop of a product multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Arithmetic {
    /// Weights decoded to f32, f32 activations.
    F32,
    /// f16 weights and activations, sums in f32.
    F16,
    /// The integers of the format and activations rounded to i8, four a dot product.
    Dot,
    /// Cooperative matrices.
    Matrix,
}

impl Arithmetic {
    pub const ALL: [Arithmetic; 4] = [Arithmetic::F32, Arithmetic::F16, Arithmetic::Dot, Arithmetic::Matrix];

    pub const fn name(self) -> &'static str {
        match self {
            Arithmetic::F32 => "f32",
            Arithmetic::F16 => "f16",
            Arithmetic::Dot => "dot",
            Arithmetic::Matrix => "matrix",
        }
    }

    /// The flag of its kernels; f32 has none.
    pub const fn flag(self) -> Option<&'static str> {
        match self {
            Arithmetic::F32 => None,
            Arithmetic::F16 => Some("F16"),
            Arithmetic::Dot => Some("DOT"),
            Arithmetic::Matrix => Some("MATRIX"),
        }
    }

    /// That of a kernel.
    pub fn of(spec: &KernelSpec) -> Arithmetic {
        let flagged = |a: &Arithmetic| a.flag().is_some_and(|flag| spec.flags.contains(flag));
        Arithmetic::ALL.into_iter().find(flagged).unwrap_or(Arithmetic::F32)
    }

    /// The lowest tier that has it.
    pub const fn tier(self) -> Tier {
        match self {
            Arithmetic::F32 => Tier::Core,
            Arithmetic::F16 => Tier::F16,
            Arithmetic::Dot => Tier::Dot,
            Arithmetic::Matrix => Tier::Matrix,
        }
    }

    /// Whether there are kernels.
    fn has(self, product: Product, _: Format) -> bool {
        match self {
            Arithmetic::F32 => true,
            Arithmetic::Matrix => [Product::Matmul, Product::Grouped].contains(&product),
            Arithmetic::F16 | Arithmetic::Dot => false,
        }
    }
}

impl fmt::Display for Arithmetic {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Arithmetic {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let found = Arithmetic::ALL.into_iter().find(|a| a.name() == s);
        found.ok_or_else(|| format!("unknown arithmetic `{s}`; there are f32, f16, dot, matrix"))
    }
}

/// Kinds of product, which have kernels of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Product {
    /// One token, experts included.
    Matvec,
    /// Two to eight tokens.
    Batch,
    /// More tokens, in tiles.
    Matmul,
    /// Experts of several tokens, in tiles.
    Grouped,
}

impl Product {
    pub const ALL: [Product; 4] = [Product::Matvec, Product::Batch, Product::Matmul, Product::Grouped];

    /// A matrix times `tokens` tokens.
    pub fn of(tokens: usize) -> Product {
        match tokens {
            0..=1 => Product::Matvec,
            2..=8 => Product::Batch,
            _ => Product::Matmul,
        }
    }
}

impl fmt::Display for Product {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(match self {
            Product::Matvec => "mat-vec",
            Product::Batch => "2 to 8",
            Product::Matmul => "matmul",
            Product::Grouped => "grouped",
        })
    }
}

/// What the choice depends on beside the product.
#[derive(Clone, Copy, Debug)]
pub struct Ground {
    /// The ceiling.
    pub tier: Tier,
    /// What the device was measured to reach: no feature says whether its packed arithmetic is hardware.
    pub profile: Option<DeviceProfile>,
    /// Taken wherever there is a kernel of it, whatever is faster: for tests and measurements.
    pub force: Option<Arithmetic>,
}

/// An arithmetic, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    pub arithmetic: Arithmetic,
    pub reason: String,
}

/// Multiples of the f32 rate from which on packed arithmetic counts as hardware: packed bytes reach 4, emulated ones about
/// 1; packed halves reach 2, emulated ones less than 1.
const PACKED_BYTES: f64 = 2.0;
const PACKED_HALVES: f64 = 1.5;
/// The same for cooperative matrices: those of hardware reach 4 and more.
const MATRICES: f64 = 2.0;

impl Ground {
    /// The arithmetic of a product with a matrix [rows, columns].
    pub fn choose(&self, product: Product, format: Format, [_rows, _columns]: [usize; 2]) -> Choice {
        let choice = |arithmetic, reason: String| Choice { arithmetic, reason };
        let f32 = |reason: &str| choice(Arithmetic::F32, reason.into());
        match self.force {
            Some(forced) if forced.tier() <= self.tier && forced.has(product, format) => {
                return choice(forced, "forced".into());
            }
            Some(forced) => return choice(Arithmetic::F32, format!("no {forced} kernel for it")),
            None if self.tier.is_f32() => return f32("the tier computes in f32"),
            None => {}
        }
        let Some(profile) = &self.profile else { return f32("the device's rates were not measured") };
        let has = |a: Arithmetic| a.tier() <= self.tier && a.has(product, format);
        for (arithmetic, rate, least, what) in [
            (Arithmetic::Matrix, profile.matrix_flops_per_second.unwrap_or(0.0), MATRICES, "cooperative matrices"),
            (Arithmetic::Dot, profile.dot_ops_per_second, PACKED_BYTES, "packed integer dot product"),
            (Arithmetic::F16, profile.f16_flops_per_second.unwrap_or(0.0), PACKED_HALVES, "f16"),
        ] {
            let ratio = rate / profile.flops_per_second;
            if has(arithmetic) && ratio >= least {
                return choice(arithmetic, format!("{what}: {ratio:.1} x the rate of f32"));
            }
        }
        f32("no narrower arithmetic of it is faster here")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROFILE: DeviceProfile = DeviceProfile {
        stream_bytes_per_second: 250e9,
        flops_per_second: 14e12,
        f16_flops_per_second: Some(28e12),
        matrix_flops_per_second: Some(56e12),
        dot_ops_per_second: 56e12,
        dispatch_seconds: 3e-6,
    };

    #[test]
    fn a_tier_of_f32_and_an_unmeasured_device_compute_in_f32() {
        for (tier, profile) in [(Tier::Subgroup, Some(PROFILE)), (Tier::Matrix, None)] {
            let ground = Ground { tier, profile, force: None };
            for product in Product::ALL {
                let choice = ground.choose(product, Format::Q4K, [4096, 4096]);
                assert_eq!(choice.arithmetic, Arithmetic::F32, "{tier}, {product}: {}", choice.reason);
            }
        }
    }

    #[test]
    fn names_round_trip() {
        for arithmetic in Arithmetic::ALL {
            assert_eq!(arithmetic.name().parse::<Arithmetic>(), Ok(arithmetic));
        }
        assert!("int8".parse::<Arithmetic>().is_err());
    }
}
