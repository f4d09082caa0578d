//! The GGUF block formats: geometry, and the scalar decoder that every shader is held against.
//!
//! A format is one row of the table below, one decoder in this folder and one snippet in `shaders/formats/`.
//!
//! In every quantized format the product of scale, sub-scale and quant fits the 24 bits of an f32, so a decoded weight
//! is rounded at most once, whatever the order of the factors and whether or not a driver contracts to fma. Decoders
//! and shaders thus agree bit for bit, the sign of a zero apart.

mod codebooks;
mod float;
mod fp4;
mod iq;
mod k_quants;
mod layout;
mod legacy;
mod ternary;

use codebooks::device as codebook;

/// Weights that a shader decodes at once, and that a row on the device is padded to.
pub const RUN: usize = 16;

/// The facts of one format.
struct Facts {
    /// ggml's type number, as a GGUF tensor names it.
    ggml: u32,
    name: &'static str,
    /// Values a block.
    block: usize,
    /// Bytes a block, as in a file.
    block_bytes: usize,
    /// How a row lies on the device, see [`Format::relay`]: (offset in the block, bytes) of each plane.
    planes: &'static [(usize, usize)],
    /// Decodes a run of blocks.
    decode: fn(&[u8], &mut [f32]),
    wgsl: &'static str,
    /// Whether the WGSL has `quants16`.
    integers: bool,
    codebook: Option<&'static [u32]>,
}

macro_rules! formats {
    ($($variant:ident $ggml:literal $name:literal [$block:literal, $bytes:literal] $planes:tt $decode:path,
       $integers:ident $shaders:tt $(, $codebook:path)?;)*) => {
        /// How the weights of a tensor are stored.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Format { $($variant),* }

        impl Format {
            pub const ALL: &[Format] = &[$(Format::$variant),*];
        }

        /// In the order of [`Format::ALL`].
        static FACTS: [Facts; Format::ALL.len()] = [$(Facts {
            ggml: $ggml,
            name: $name,
            block: $block,
            block_bytes: $bytes,
            planes: &$planes,
            decode: $decode,
            wgsl: formats!(@shaders $name $shaders),
            integers: formats!(@$integers),
            codebook: formats!(@codebook $($codebook)?),
        }),*];
    };
    (@shaders $name:literal [$($more:literal)*]) => {
        concat!(formats!(@shader "common"), $(formats!(@shader $more),)* formats!(@shader $name))
    };
    (@shader $file:literal) => { include_str!(concat!("../../shaders/formats/", $file, ".wgsl")) };
    (@integers) => { true };
    (@floats) => { false };
    (@codebook) => { None };
    (@codebook $codebook:path) => { Some(&$codebook) };
}

formats! {
    // ggml's number, name, [values, bytes] a block, planes on the device, decoder, what shaders can make of it, more shader files, codebook
    F32     0 "f32"     [1, 4]     [(0, 4)]                      float::f32,     floats   [];
    F16     1 "f16"     [1, 2]     [(0, 2)]                      float::f16,     floats   [];
    BF16   30 "bf16"    [1, 2]     [(0, 2)]                      float::bf16,    floats   [];
    Q4_0    2 "q4_0"    [32, 18]   [(2, 16), (0, 2)]             legacy::q4_0,   integers ["unsigned"];
    Q4_1    3 "q4_1"    [32, 20]   [(4, 16), (0, 4)]             legacy::q4_1,   integers ["unsigned"];
    Q5_0    6 "q5_0"    [32, 22]   [(6, 16), (2, 4), (0, 2)]     legacy::q5_0,   integers ["unsigned"];
    Q5_1    7 "q5_1"    [32, 24]   [(8, 16), (0, 8)]             legacy::q5_1,   integers ["unsigned"];
    Q8_0    8 "q8_0"    [32, 34]   [(2, 32), (0, 2)]             legacy::q8_0,   integers ["signed"];
    Q2K    10 "q2_k"    [256, 84]  [(0, 80), (80, 4)]            k_quants::q2_k, integers ["unsigned"];
    Q3K    11 "q3_k"    [256, 110] [(0, 96), (96, 12), (108, 2)] k_quants::q3_k, integers ["unsigned"];
    Q4K    12 "q4_k"    [256, 144] [(0, 144)]                    k_quants::q4_k, integers ["unsigned" "k_scales"];
    Q5K    13 "q5_k"    [256, 176] [(0, 176)]                    k_quants::q5_k, integers ["unsigned" "k_scales"];
    Q6K    14 "q6_k"    [256, 210] [(0, 208), (208, 2)]          k_quants::q6_k, integers ["unsigned"];
    IQ1S   19 "iq1_s"   [256, 50]  [(2, 48), (0, 2)]             iq::iq1_s,      integers ["iq1"], codebook::IQ1;
    IQ1M   29 "iq1_m"   [256, 56]  [(0, 56)]                     iq::iq1_m,      integers ["iq1"], codebook::IQ1;
    IQ2XXS 16 "iq2_xxs" [256, 66]  [(2, 64), (0, 2)]             iq::iq2_xxs,    integers ["signed" "signs" "iq2"], codebook::IQ2_XXS;
    IQ2XS  17 "iq2_xs"  [256, 74]  [(2, 72), (0, 2)]             iq::iq2_xs,     integers ["signed" "signs" "iq2"], codebook::IQ2_XS;
    IQ2S   22 "iq2_s"   [256, 82]  [(2, 80), (0, 2)]             iq::iq2_s,      integers ["signed" "signs" "iq2"], codebook::IQ2_S;
    IQ3XXS 18 "iq3_xxs" [256, 98]  [(2, 96), (0, 2)]             iq::iq3_xxs,    integers ["signed" "signs" "iq3"], codebook::IQ3_XXS;
    IQ3S   21 "iq3_s"   [256, 110] [(2, 108), (0, 2)]            iq::iq3_s,      integers ["signed" "signs" "iq3"], codebook::IQ3_S;
    IQ4NL  20 "iq4_nl"  [32, 18]   [(2, 16), (0, 2)]             iq::iq4_nl,     integers ["iq4"], codebook::IQ4;
    IQ4XS  23 "iq4_xs"  [256, 136] [(8, 128), (0, 8)]            iq::iq4_xs,     integers ["iq4"], codebook::IQ4;
    MXFP4  39 "mxfp4"   [32, 17]   [(1, 16), (0, 1)]             fp4::mxfp4,     integers ["e2m1"];
    NVFP4  40 "nvfp4"   [64, 36]   [(4, 32), (0, 4)]             fp4::nvfp4,     integers ["e2m1"];
    TQ1_0  34 "tq1_0"   [256, 54]  [(0, 52), (52, 2)]            ternary::tq1_0, integers ["unsigned"];
    TQ2_0  35 "tq2_0"   [256, 66]  [(0, 64), (64, 2)]            ternary::tq2_0, integers ["unsigned"];
}

impl Format {
    fn facts(self) -> &'static Facts {
        &FACTS[self as usize]
    }

    /// The format of ggml's type number `n`, as a GGUF tensor names it; `None` if halogen does not know it.
    pub fn from_ggml(n: u32) -> Option<Format> {
        Format::ALL.iter().copied().find(|f| f.ggml() == n)
    }

    /// ggml's type number.
    pub fn ggml(self) -> u32 {
        self.facts().ggml
    }

    /// The name that users know, lower case: `q4_k`.
    pub fn name(self) -> &'static str {
        self.facts().name
    }

    /// Values a block; 1 for the float formats.
    pub fn block(self) -> usize {
        self.facts().block
    }

    /// Bytes a block, as in a file.
    pub fn block_bytes(self) -> usize {
        self.facts().block_bytes
    }

    /// Bytes of a row of `columns` values, as in a file. `columns` must be a multiple of [`Format::block`].
    pub fn row_bytes(self, columns: usize) -> usize {
        let block = self.block();
        assert!(columns.is_multiple_of(block), "{self}: {columns} columns are no multiple of the block of {block}");
        columns / block * self.block_bytes()
    }

    /// Decodes a run of blocks, as in a file: `bytes.len() / block_bytes` blocks to as many times `block` values.
    pub fn decode(self, bytes: &[u8], out: &mut [f32]) {
        let expected = self.row_bytes(out.len());
        assert_eq!(bytes.len(), expected, "{self}: bytes for {} values", out.len());
        (self.facts().decode)(bytes, out)
    }

    /// The WGSL that decodes [`RUN`] weights, composed into operators by `#import format`.
    ///
    /// It asks of the operator
    /// ```wgsl
    /// fn weight_word(i: u32) -> u32          // word i of the weights
    /// fn weight_quad(i: u32) -> vec4<u32>    // words 4i .. 4i + 3
    /// ```
    /// and provides
    /// ```wgsl
    /// const BLOCK: u32        // values a block; RUN for the float formats
    /// const BODY_WORDS: u32   // words of a block in the first plane
    /// // Weights 16 run .. 16 run + 15 of a row, four a column. The row starts at word `row`, a multiple of 4;
    /// // `tail = row + blocks * BODY_WORDS` is where its first plane ends.
    /// fn decode16(row: u32, tail: u32, run: u32) -> mat4x4<f32>
    /// ```
    /// and, of a format that [has integers](Format::has_integers), also
    /// ```wgsl
    /// // The same weights as scale * q + offset, q sixteen i8. Other roundings of f32 apart they are those of decode16.
    /// fn quants16(row: u32, tail: u32, run: u32) -> Quants
    /// ```
    /// A format with a [`Format::codebook`] also declares `codebook` at `@group(0) @binding(9)`.
    pub fn wgsl(self) -> &'static str {
        self.facts().wgsl
    }

    /// Whether its weights are small integers times a scale, plus an offset, in every run: `quants16` gives them to kernels
    /// of integer dot products.
    pub fn has_integers(self) -> bool {
        self.facts().integers
    }

    /// The words to bind as `codebook: array<u32>`, for the formats whose shader looks weights up.
    pub fn codebook(self) -> Option<&'static [u32]> {
        self.facts().codebook
    }
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// Calls `decode` on each block of `BYTES` bytes and its `VALUES` values.
fn each<const BYTES: usize, const VALUES: usize>(
    bytes: &[u8],
    out: &mut [f32],
    decode: impl Fn(&[u8; BYTES], &mut [f32; VALUES]),
) {
    for (block, values) in bytes.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        decode(block, values);
    }
}

/// The f16 at byte `at`.
fn half(block: &[u8], at: usize) -> f32 {
    half::f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}
