//! ggml's first formats: 32 values under one f16 scale. The comments name the structs of ggml-common.h.

use super::{each, half};

/// `block_q4_0`: d f16, then 16 bytes, byte i holding values i (low nibble) and i + 16, both 8 too large.
pub fn q4_0(bytes: &[u8], out: &mut [f32]) {
    each(bytes, out, |b: &[u8; 18], y: &mut [f32; 32]| {
        let d = half(b, 0);
        for (i, q) in b[2..].iter().enumerate() {
            y[i] = d * ((q & 15) as f32 - 8.0);
            y[i + 16] = d * ((q >> 4) as f32 - 8.0);
        }
    });
}

/// `block_q4_1`: d f16, m f16, then nibbles as in q4_0.
pub fn q4_1(bytes: &[u8], out: &mut [f32]) {
    each(bytes, out, |b: &[u8; 20], y: &mut [f32; 32]| {
        let (d, m) = (half(b, 0), half(b, 2));
        for (i, q) in b[4..].iter().enumerate() {
            y[i] = d * (q & 15) as f32 + m;
            y[i + 16] = d * (q >> 4) as f32 + m;
        }
    });
}

/// Bit `i` of the 32 that precede the nibbles of q5_0 and q5_1: the fifth bit of value i.
fn fifth_bit(bits: &[u8], i: usize) -> u8 {
    (bits[i / 8] >> (i % 8) & 1) << 4
}

/// `block_q5_0`: d f16, 4 bytes of fifth bits, then nibbles as in q4_0; 16 too large.
pub fn q5_0(bytes: &[u8], out: &mut [f32]) {
    each(bytes, out, |b: &[u8; 22], y: &mut [f32; 32]| {
        let d = half(b, 0);
        for (i, q) in b[6..].iter().enumerate() {
            y[i] = d * ((q & 15 | fifth_bit(&b[2..], i)) as f32 - 16.0);
            y[i + 16] = d * ((q >> 4 | fifth_bit(&b[2..], i + 16)) as f32 - 16.0);
        }
    });
}

/// `block_q5_1`: d f16, m f16, 4 bytes of fifth bits, then nibbles as in q4_0.
pub fn q5_1(bytes: &[u8], out: &mut [f32]) {
    each(bytes, out, |b: &[u8; 24], y: &mut [f32; 32]| {
        let (d, m) = (half(b, 0), half(b, 2));
        for (i, q) in b[8..].iter().enumerate() {
            y[i] = d * (q & 15 | fifth_bit(&b[4..], i)) as f32 + m;
            y[i + 16] = d * (q >> 4 | fifth_bit(&b[4..], i + 16)) as f32 + m;
        }
    });
}

/// `block_q8_0`: d f16, then 32 i8.
pub fn q8_0(bytes: &[u8], out: &mut [f32]) {
    each(bytes, out, |b: &[u8; 34], y: &mut [f32; 32]| {
        let d = half(b, 0);
        for (y, &q) in y.iter_mut().zip(&b[2..]) {
            *y = d * q as i8 as f32;
        }
    });
}
