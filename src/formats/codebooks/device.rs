//! What shaders bind as `codebook`, one word an entry, shaped so that few operations turn it into floats. Storage
//! buffers, since a constant array that a shader indexes becomes a copy in each invocation's memory.

use super::IQ2_VALUES;

/// Nibbles 0, 1, 2 for -1, 0, 1: values 0 to 3 in the low nibbles of the bytes, values 4 to 7 in the high ones.
pub static IQ1: [u32; 2048] = nibbles(super::IQ1, [0, 1, 2]);

// The magnitudes are 8 plus bits 0, 1, 4 and 5. A nibble holds these bits, in the order of iq1's.
pub static IQ2_XXS: [u32; 256] = nibbles(super::IQ2_XXS, IQ2_NIBBLES);
pub static IQ2_XS: [u32; 512] = nibbles(super::IQ2_XS, IQ2_NIBBLES);
pub static IQ2_S: [u32; 1024] = nibbles(super::IQ2_S, IQ2_NIBBLES);

/// A byte a value.
pub static IQ3_XXS: [u32; 256] = bytes(super::IQ3_XXS, super::IQ3_XXS_VALUES);
pub static IQ3_S: [u32; 512] = bytes(super::IQ3_S, [1, 3, 5, 7, 9, 11, 13, 15]);

/// The two values of a byte of nibbles, low one first: as f16, and from entry 256 on as i8.
pub static IQ4: [u32; 512] = {
    let mut words = [0; 512];
    let mut i = 0;
    while i < 256 {
        words[i] = iq4_f16(i & 15) | iq4_f16(i >> 4) << 16;
        words[256 + i] = iq4_i8(i & 15) | iq4_i8(i >> 4) << 8;
        i += 1;
    }
    words
};

const IQ2_NIBBLES: [u32; 3] = [iq2_nibble(0), iq2_nibble(1), iq2_nibble(2)];

const fn iq2_nibble(i: usize) -> u32 {
    let v = IQ2_VALUES[i] as u32;
    assert!(v & !0x33 == 8);
    v & 3 | (v & 0x30) >> 2
}

const fn iq4_f16(i: usize) -> u32 {
    half::f16::from_f32_const(super::IQ4[i] as f32).to_bits() as u32
}

const fn iq4_i8(i: usize) -> u32 {
    super::IQ4[i] as u8 as u32
}

const fn nibbles<const N: usize>(entries: [u16; N], values: [u32; 3]) -> [u32; N] {
    let mut words = [0; N];
    let mut i = 0;
    while i < N * 8 {
        let (entry, k) = (i / 8, i % 8);
        words[entry] |= values[(entries[entry] >> (2 * k) & 3) as usize] << (k % 4 * 8 + k / 4 * 4);
        i += 1;
    }
    words
}

const fn bytes<const N: usize>(entries: [u16; N], values: [u8; 8]) -> [u32; N] {
    let mut words = [0; N];
    let mut i = 0;
    while i < N * 4 {
        let (entry, k) = (i / 4, i % 4);
        words[entry] |= (values[(entries[entry] >> (3 * k) & 7) as usize] as u32) << (8 * k);
        i += 1;
    }
    words
}
