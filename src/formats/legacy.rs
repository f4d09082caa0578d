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

/// `block_q8_0`: d f16, then 32 i8.
pub fn q8_0(bytes: &[u8], out: &mut [f32]) {
    each(bytes, out, |b: &[u8; 34], y: &mut [f32; 32]| {
        let d = half(b, 0);
        for (y, &q) in y.iter_mut().zip(&b[2..]) {
            *y = d * q as i8 as f32;
        }
    });
}
