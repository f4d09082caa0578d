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

    /// With its flag.
    pub(super) fn flagged(self, spec: KernelSpec) -> KernelSpec {
        self.flag().into_iter().fold(spec, |spec, flag| spec.flag(flag, true))
    }

    /// Whether there are kernels. A mat-vec has none in f16: it waits for its weights, which the format makes small, and not
    /// for its inputs, which a cache holds.
    pub fn has(self, product: Product, format: Format) -> bool {
        match self {
            Arithmetic::F32 => true,
            Arithmetic::F16 => product != Product::Matvec,
            Arithmetic::Dot => format.has_integers(),
            Arithmetic::Matrix => [Product::Matmul, Product::Grouped].contains(&product),
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
    /// Whether a product may read its input rounded to integers.
    pub fn rounds(&self) -> bool {
        let packed = |p: &DeviceProfile| p.dot_ops_per_second >= PACKED_BYTES * p.flops_per_second;
        let chosen = self.force.map_or(self.profile.as_ref().is_some_and(packed), |forced| forced == Arithmetic::Dot);
        self.tier >= Tier::Dot && chosen
    }

    /// The arithmetic of a product with a matrix [rows, columns].
    pub fn choose(&self, product: Product, format: Format, shape: [usize; 2]) -> Choice {
        let choice = |arithmetic, reason: String| Choice { arithmetic, reason };
        let f32 = |reason: &str| choice(Arithmetic::F32, reason.into());
        match self.force {
            Some(forced) if forced.tier() <= self.tier && forced.has(product, format) => {
                return choice(forced, "forced".into());
            }
            Some(forced) => return choice(Arithmetic::F32, format!("no {forced} kernel of it")),
            None if self.tier.is_f32() => return f32("the tier computes in f32"),
            None => {}
        }
        if product == Product::Batch {
            return f32("weights are decoded once for all tokens, which the tiles of other arithmetic do not fill");
        }
        let Some(profile) = &self.profile else { return f32("the device's rates were not measured") };
        let has = |a: Arithmetic| a.tier() <= self.tier && a.has(product, format);
        let matrices = profile.matrix_flops_per_second.unwrap_or(0.0) / profile.flops_per_second;
        if has(Arithmetic::Matrix) && matrices >= MATRICES {
            return choice(Arithmetic::Matrix, format!("cooperative matrices: {matrices:.1} x the rate of f32"));
        }
        let dots = profile.dot_ops_per_second / profile.flops_per_second;
        if has(Arithmetic::Dot) && dots >= PACKED_BYTES {
            if product != Product::Matvec {
                return choice(Arithmetic::Dot, format!("packed integer dot products: {dots:.1} x the rate of f32"));
            }
            let [f32_time, dot_time] = matvec_seconds(profile, format, shape);
            let times = format!("{:.1} us in dot, {:.1} us in f32", dot_time * 1e6, f32_time * 1e6);
            return match dot_time < f32_time {
                true => choice(Arithmetic::Dot, format!("fewer instructions a weight: estimated {times}")),
                false => f32(&format!("memory bounds it, and rounding its input is a dispatch: estimated {times}")),
            };
        }
        let halves = profile.f16_flops_per_second.unwrap_or(0.0) / profile.flops_per_second;
        if has(Arithmetic::F16) && halves >= PACKED_HALVES {
            return choice(Arithmetic::F16, format!("f16: {halves:.1} x the rate of f32"));
        }
        f32("no narrower arithmetic of it is faster here")
    }
}

/// Part of the rate of instructions that a mat-vec is taken to reach beside its loads: by it q4_k and q8_0 at batch 1 fall on
/// the sides of the choice on which others measured them, K-quants for integer dot products and q8_0 against.
const ISSUED: f64 = 1.0 / 3.0;

/// Seconds of a mat-vec of [rows, columns] in f32, and in dot with the dispatch that rounds its input: the longer of reading
/// the weights and issuing the instructions.
fn matvec_seconds(profile: &DeviceProfile, format: Format, [rows, columns]: [usize; 2]) -> [f64; 2] {
    let moving =
        (rows * format.row_bytes(columns.next_multiple_of(format.block()))) as f64 / profile.stream_bytes_per_second;
    // A multiply-add is an instruction, and two operations.
    let rate = ISSUED * profile.flops_per_second / 2.0;
    let runs = (rows * columns) as f64 / 16.0;
    let [f32, dot] = instructions(format).map(|n| moving.max(runs * f64::from(n) / rate));
    [f32, dot + profile.dispatch_seconds]
}

/// Vector instructions for 16 weights of a mat-vec, in f32 and in dot, as the compiler for gfx1151 makes them
/// (`halogen shaders matvec --stats gfx1151`, docs/performance.md).
fn instructions(format: Format) -> [u32; 2] {
    use Format::*;
    match format {
        F32 | F16 | BF16 => [21, 21], // has no integers
        Q4_0 => [78, 27],
        Q4_1 => [74, 24],
        Q5_0 => [99, 50],
        Q5_1 => [97, 47],
        Q8_0 => [72, 16],
        Q2K => [91, 42],
        Q3K => [113, 64],
        Q4K => [93, 43],
        Q5K => [107, 57],
        Q6K => [108, 57],
        IQ1S => [104, 58],
        IQ1M => [119, 71],
        IQ2XXS => [138, 81],
        IQ2XS => [146, 91],
        IQ2S => [152, 96],
        IQ3XXS => [130, 74],
        IQ3S => [140, 84],
        IQ4NL => [84, 52],
        IQ4XS => [95, 64],
        MXFP4 => [90, 94],
        NVFP4 => [94, 97],
        TQ1_0 => [139, 91],
        TQ2_0 => [77, 28],
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
    fn a_device_with_packed_dot_products_takes_them_where_they_save_more_than_a_dispatch() {
        let ground = Ground { tier: Tier::Dot, profile: Some(PROFILE), force: None };
        let of = |product, format, shape| ground.choose(product, format, shape).arithmetic;
        assert_eq!(of(Product::Matvec, Format::Q4K, [151_936, 4096]), Arithmetic::Dot);
        assert_eq!(of(Product::Matvec, Format::Q4K, [256, 256]), Arithmetic::F32);
        assert_eq!(of(Product::Matvec, Format::Q8_0, [151_936, 4096]), Arithmetic::F32);
        assert_eq!(of(Product::Matvec, Format::MXFP4, [151_936, 4096]), Arithmetic::F32);
        // Few tokens fill no tile.
        assert_eq!(of(Product::Batch, Format::Q8_0, [4096, 4096]), Arithmetic::F32);
        for product in [Product::Matmul, Product::Grouped] {
            assert_eq!(of(product, Format::Q8_0, [4096, 4096]), Arithmetic::Dot);
            assert_eq!(of(product, Format::F16, [4096, 4096]), Arithmetic::F16);
        }
        assert_eq!(of(Product::Matvec, Format::F16, [4096, 4096]), Arithmetic::F32);
        let emulated = DeviceProfile { dot_ops_per_second: 14e12, f16_flops_per_second: Some(10e12), ..PROFILE };
        let ground = Ground { profile: Some(emulated), ..ground };
        for product in Product::ALL {
            assert_eq!(ground.choose(product, Format::Q4K, [4096, 4096]).arithmetic, Arithmetic::F32);
        }
    }

    #[test]
    fn what_is_forced_is_taken_where_there_is_a_kernel() {
        for (force, tier, expected) in [
            (Arithmetic::Dot, Tier::Dot, Arithmetic::Dot),
            (Arithmetic::Dot, Tier::F16, Arithmetic::F32),
            (Arithmetic::F16, Tier::Dot, Arithmetic::F16),
            (Arithmetic::F32, Tier::Dot, Arithmetic::F32),
        ] {
            let ground = Ground { tier, profile: Some(PROFILE), force: Some(force) };
            assert_eq!(ground.choose(Product::Matmul, Format::Q4K, [64, 256]).arithmetic, expected);
        }
        let ground = Ground { tier: Tier::Dot, profile: None, force: Some(Arithmetic::Dot) };
        assert_eq!(ground.choose(Product::Matmul, Format::BF16, [64, 256]).arithmetic, Arithmetic::F32);
    }

    #[test]
    fn names_round_trip() {
        for arithmetic in Arithmetic::ALL {
            assert_eq!(arithmetic.name().parse::<Arithmetic>(), Ok(arithmetic));
        }
        assert!("int8".parse::<Arithmetic>().is_err());
    }
}
