//! The formats of 4 bit floats (e2m1), scaled by 8 bit floats. The comments name the structs of ggml-common.h.

use super::each;

/// The e2m1 numbers, sign in bit 3 (OCP Microscaling Formats 1.0, table 5).
const E2M1: [f32; 16] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// 2^(e - 127): e8m0, the exponent of an f32. 0 is the subnormal 2^-127; 255, in the standard no number, goes on to 2^128
/// as in ggml.
fn e8m0(e: u8) -> f32 {
    match e {
        0 => f32::from_bits(1 << 22),
        _ => f32::from_bits((e as u32) << 23),
    }
}

/// Unsigned e4m3 with bias 7, 127 (no number) read as 0 as in ggml, which also ignores the top bit.
fn ue4m3(x: u8) -> f32 {
    let (exponent, mantissa) = (x >> 3 & 15, (x & 7) as f32);
    match (x, exponent) {
        (0x7f, _) => 0.0,
        (_, 0) => mantissa / 512.0,
        _ => (1.0 + mantissa / 8.0) * f32::from_bits((exponent as u32 + 120) << 23),
    }
}

/// `block_mxfp4`: an e8m0 scale, then 32 nibbles as in q4_0.
pub fn mxfp4(bytes: &[u8], out: &mut [f32]) {
    each(bytes, out, |b: &[u8; 17], y: &mut [f32; 32]| {
        for (i, q) in b[1..].iter().enumerate() {
            y[i] = e8m0(b[0]) * E2M1[(q & 15) as usize];
            y[i + 16] = e8m0(b[0]) * E2M1[(q >> 4) as usize];
        }
    });
}

/// `block_nvfp4`: four ue4m3 scales, then for each 16 values 8 bytes, low nibbles first.
pub fn nvfp4(bytes: &[u8], out: &mut [f32]) {
    each(bytes, out, |b: &[u8; 36], y: &mut [f32; 64]| {
        for (j, y) in y.chunks_exact_mut(16).enumerate() {
            for (i, q) in b[4 + 8 * j..][..8].iter().enumerate() {
                y[i] = ue4m3(b[j]) * E2M1[(q & 15) as usize];
                y[i + 8] = ue4m3(b[j]) * E2M1[(q >> 4) as usize];
            }
        }
    });
}
