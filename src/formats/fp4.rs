//! The formats of 4 bit floats (e2m1), scaled by 8 bit floats. The comments name the structs of ggml-common.h.

use super::each;

/// Twice the e2m1 numbers (OCP Microscaling Formats 1.0, table 5), and no -0: ggml's `kvalues_mxfp4`.
const E2M1_TWICE: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// Half of e8m0, 2^(e - 128). 255, in the standard no number, is one more exponent here as in ggml.
fn e8m0_half(e: u8) -> f32 {
    match e {
        // Subnormal.
        0 | 1 => f32::from_bits(1 << (21 + e)),
        _ => f32::from_bits((e as u32 - 1) << 23),
    }
}

/// Half of unsigned e4m3 with bias 7, 127 (no number) read as 0 as in ggml, which also ignores the top bit.
fn ue4m3_half(x: u8) -> f32 {
    let (exponent, mantissa) = (x >> 3 & 15, (x & 7) as f32);
    match (x, exponent) {
        (0x7f, _) => 0.0,
        (_, 0) => mantissa / 1024.0,
        _ => (1.0 + mantissa / 8.0) * f32::from_bits((exponent as u32 + 119) << 23),
    }
}

/// `block_mxfp4`: an e8m0 scale, then 32 nibbles as in q4_0.
pub fn mxfp4(bytes: &[u8], out: &mut [f32]) {
    each(bytes, out, |b: &[u8; 17], y: &mut [f32; 32]| {
        let d = e8m0_half(b[0]);
        for (i, q) in b[1..].iter().enumerate() {
            y[i] = d * E2M1_TWICE[(q & 15) as usize] as f32;
            y[i + 16] = d * E2M1_TWICE[(q >> 4) as usize] as f32;
        }
    });
}

/// `block_nvfp4`: four ue4m3 scales, then for each 16 values 8 bytes, low nibbles first.
pub fn nvfp4(bytes: &[u8], out: &mut [f32]) {
    each(bytes, out, |b: &[u8; 36], y: &mut [f32; 64]| {
        for (j, y) in y.chunks_exact_mut(16).enumerate() {
            let d = ue4m3_half(b[j]);
            for (i, q) in b[4 + 8 * j..][..8].iter().enumerate() {
                y[i] = d * E2M1_TWICE[(q & 15) as usize] as f32;
                y[i + 8] = d * E2M1_TWICE[(q >> 4) as usize] as f32;
            }
        }
    });
}
