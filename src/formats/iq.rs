//! The IQ formats: 256 values, looked up 4 or 8 at once in a codebook. The comments name the structs of ggml-common.h;
//! all open with d f16 unless they say otherwise.

use super::codebooks as books;
use super::{each, half};

fn u16_at(b: &[u8], at: usize) -> u32 {
    u16::from_le_bytes([b[at], b[at + 1]]) as u32
}

fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

fn nibble(b: &[u8], i: usize) -> u32 {
    (b[i / 2] >> (i % 2 * 4) & 15) as u32
}

/// Bit i of `signs` set: value i is negative.
fn sign(signs: u32, i: usize) -> f32 {
    if signs >> i & 1 == 1 { -1.0 } else { 1.0 }
}

/// The 8 signs that 7 bits stand for: the number of negative values is even.
fn even_signs(bits: u32) -> u32 {
    let bits = bits & 127;
    bits | (bits.count_ones() & 1) << 7
}

/// 8 values of an iq1 codebook entry, each shifted by an eighth.
fn iq1(entry: u16, d: f32, negative: bool, y: &mut [f32]) {
    let delta = if negative { -0.125 } else { 0.125 };
    for (i, y) in y.iter_mut().enumerate() {
        *y = d * ((entry >> (2 * i) & 3) as f32 - 1.0 + delta);
    }
}

/// 8 values of an iq2 codebook entry.
fn iq2(entry: u16, d: f32, signs: u32, y: &mut [f32]) {
    for (i, y) in y.iter_mut().enumerate() {
        *y = d * books::IQ2_VALUES[(entry >> (2 * i) & 3) as usize] as f32 * sign(signs, i);
    }
}

/// `block_iq1_s`: 32 bytes of index, then a u16 for each 32 values: 3 more index bits for each 8, a 3 bit scale, and
/// the sign of the shift.
pub fn iq1_s(bytes: &[u8], out: &mut [f32]) {
    each(bytes, out, |b: &[u8; 50], y: &mut [f32; 256]| {
        for (i, y) in y.chunks_exact_mut(8).enumerate() {
            let h = u16_at(b, 34 + i / 4 * 2);
            let entry = b[2 + i] as u32 | (h >> (i % 4 * 3) & 7) << 8;
            let d = half(b, 0) * (2 * (h >> 12 & 7) + 1) as f32;
            iq1(books::IQ1[entry as usize], d, h >> 15 == 1, y);
        }
    });
}

/// `block_iq1_m`: 32 bytes of index, a nibble for each 8 values (3 more index bits, the sign of the shift), four u16
/// that hold four 3 bit scales each, one for 16 values, and a nibble of d each.
pub fn iq1_m(bytes: &[u8], out: &mut [f32]) {
    each(bytes, out, |b: &[u8; 56], y: &mut [f32; 256]| {
        let d = (0..4).map(|i| (u16_at(b, 48 + 2 * i) >> 12) << (4 * i)).sum::<u32>();
        let d = half::f16::from_bits(d as u16).to_f32();
        for (i, y) in y.chunks_exact_mut(8).enumerate() {
            let h = nibble(&b[32..], i);
            let entry = b[i] as u32 | (h & 7) << 8;
            let scale = u16_at(b, 48 + i / 8 * 2) >> (i / 2 % 4 * 3) & 7;
            iq1(books::IQ1[entry as usize], d * (2 * scale + 1) as f32, h >> 3 == 1, y);
        }
    });
}

/// `block_iq2_xxs`: for each 32 values 4 bytes of index, then a u32: 7 bits of sign for each 8, a 4 bit scale.
pub fn iq2_xxs(bytes: &[u8], out: &mut [f32]) {
    each(bytes, out, |b: &[u8; 66], y: &mut [f32; 256]| {
        for (i, y) in y.chunks_exact_mut(8).enumerate() {
            let group = 2 + i / 4 * 8;
            let word = u32_at(b, group + 4);
            let d = half(b, 0) * (0.5 + (word >> 28) as f32) * 0.25;
            iq2(books::IQ2_XXS[b[group + i % 4] as usize], d, even_signs(word >> (i % 4 * 7)), y);
        }
    });
}

/// `block_iq2_xs`: a u16 for each 8 values, 9 bits of index and 7 of sign, then a nibble of scale for each 16.
pub fn iq2_xs(bytes: &[u8], out: &mut [f32]) {
    each(bytes, out, |b: &[u8; 74], y: &mut [f32; 256]| {
        for (i, y) in y.chunks_exact_mut(8).enumerate() {
            let q = u16_at(b, 2 + 2 * i);
            let d = half(b, 0) * (0.5 + nibble(&b[66..], i / 2) as f32) * 0.25;
            iq2(books::IQ2_XS[(q & 511) as usize], d, even_signs(q >> 9), y);
        }
    });
}

/// `block_iq2_s`: for each 8 values a byte of index, then a byte of sign, then 2 more index bits; then a nibble of
/// scale for each 16.
pub fn iq2_s(bytes: &[u8], out: &mut [f32]) {
    each(bytes, out, |b: &[u8; 82], y: &mut [f32; 256]| {
        for (i, y) in y.chunks_exact_mut(8).enumerate() {
            let entry = b[2 + i] as usize | (b[66 + i / 4] as usize >> (i % 4 * 2) & 3) << 8;
            let d = half(b, 0) * (0.5 + nibble(&b[74..], i / 2) as f32) * 0.25;
            iq2(books::IQ2_S[entry], d, b[34 + i] as u32, y);
        }
    });
}

/// `block_iq3_xxs`: a byte of index for each 4 values, then a u32 for each 32, as in iq2_xxs.
pub fn iq3_xxs(bytes: &[u8], out: &mut [f32]) {
    each(bytes, out, |b: &[u8; 98], y: &mut [f32; 256]| {
        for (i, y) in y.iter_mut().enumerate() {
            let word = u32_at(b, 66 + i / 32 * 4);
            let entry = books::IQ3_XXS[b[2 + i / 4] as usize];
            let d = half(b, 0) * (0.5 + (word >> 28) as f32) * 0.5;
            let value = books::IQ3_XXS_VALUES[(entry >> (i % 4 * 3) & 7) as usize];
            *y = d * value as f32 * sign(even_signs(word >> (i / 8 % 4 * 7)), i % 8);
        }
    });
}

/// `block_iq3_s`: a byte of index for each 4 values, then a ninth bit; a bit of sign for each value; a nibble of scale
/// for each 32.
pub fn iq3_s(bytes: &[u8], out: &mut [f32]) {
    each(bytes, out, |b: &[u8; 110], y: &mut [f32; 256]| {
        for (i, y) in y.iter_mut().enumerate() {
            let entry = b[2 + i / 4] as usize | (b[66 + i / 32] as usize >> (i / 4 % 8) & 1) << 8;
            let d = half(b, 0) * (1 + 2 * nibble(&b[106..], i / 32)) as f32;
            let value = 2 * (books::IQ3_S[entry] >> (i % 4 * 3) & 7) + 1;
            *y = d * value as f32 * sign(b[74 + i / 8] as u32, i % 8);
        }
    });
}

/// `block_iq4_nl`: 32 values under one d, nibbles as in q4_0.
pub fn iq4_nl(bytes: &[u8], out: &mut [f32]) {
    each(bytes, out, |b: &[u8; 18], y: &mut [f32; 32]| {
        for (i, q) in b[2..].iter().enumerate() {
            y[i] = half(b, 0) * books::IQ4[(q & 15) as usize] as f32;
            y[i + 16] = half(b, 0) * books::IQ4[(q >> 4) as usize] as f32;
        }
    });
}

/// `block_iq4_xs`: the upper 2 bits of eight 6 bit scales, their lower nibbles, then for each 32 values 16 bytes of
/// nibbles as in q4_0. The scales are 32 too large.
pub fn iq4_xs(bytes: &[u8], out: &mut [f32]) {
    each(bytes, out, |b: &[u8; 136], y: &mut [f32; 256]| {
        for (j, y) in y.chunks_exact_mut(32).enumerate() {
            let scale = nibble(&b[4..], j) | (u16_at(b, 2) >> (2 * j) & 3) << 4;
            let d = half(b, 0) * (scale as f32 - 32.0);
            for (i, q) in b[8 + 16 * j..][..16].iter().enumerate() {
                y[i] = d * books::IQ4[(q & 15) as usize] as f32;
                y[i + 16] = d * books::IQ4[(q >> 4) as usize] as f32;
            }
        }
    });
}
