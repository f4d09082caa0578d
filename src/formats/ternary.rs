//! The formats of BitNet's three values -1, 0, 1 under one f16 scale. The comments name the structs of ggml-common.h.

use super::{each, half};

/// Digit `k` of the base 3 fraction byte / 256, less one.
fn trit(byte: u8, k: usize) -> f32 {
    let shifted = byte.wrapping_mul([1, 3, 9, 27, 81][k]);
    ((shifted as u32 * 3) >> 8) as f32 - 1.0
}

/// `block_tq1_0`: 48 bytes of five digits, 4 bytes of four, d f16. Digit k of the first 32 bytes is values 32 k to
/// 32 k + 31; the next 16 bytes and the last 4 go on in the same way.
pub fn tq1_0(bytes: &[u8], out: &mut [f32]) {
    each(bytes, out, |b: &[u8; 54], y: &mut [f32; 256]| {
        let d = half(b, 52);
        let digits = [(0, 32, 5), (32, 16, 5), (48, 4, 4)]
            .into_iter()
            .flat_map(|(first, bytes, digits)| (0..digits * bytes).map(move |i| (first + i % bytes, i / bytes)));
        for (y, (byte, k)) in y.iter_mut().zip(digits) {
            *y = d * trit(b[byte], k);
        }
    });
}

/// `block_tq2_0`: 64 bytes of bit pairs, d f16. Pair k of each 32 bytes is values 32 k to 32 k + 31 of 128.
pub fn tq2_0(bytes: &[u8], out: &mut [f32]) {
    each(bytes, out, |b: &[u8; 66], y: &mut [f32; 256]| {
        let d = half(b, 64);
        for (i, y) in y.iter_mut().enumerate() {
            *y = d * ((b[i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3) as f32 - 1.0);
        }
    });
}
