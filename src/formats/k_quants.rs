//! The k-quants: 256 values in sub-blocks of 16 or 32, each with its own small scale under the block's f16 scale.
//! The comments name the structs of ggml-common.h.

use super::{each, half};

/// `block_q2_K`: 16 bytes, scale (low nibble) and minimum of a sub-block of 16, 64 bytes of bit pairs, d f16, dmin f16.
/// Each half of the block is 32 bytes, pair k of which is values 32 k to 32 k + 31.
pub fn q2_k(bytes: &[u8], out: &mut [f32]) {
    each(bytes, out, |b: &[u8; 84], y: &mut [f32; 256]| {
        let (d, dmin) = (half(b, 80), half(b, 82));
        for (j, y) in y.chunks_exact_mut(16).enumerate() {
            let (d, min) = (d * (b[j] & 15) as f32, dmin * (b[j] >> 4) as f32);
            for (y, q) in y.iter_mut().zip(&b[16 + j / 8 * 32 + j % 2 * 16..]) {
                *y = d * (q >> (j / 2 % 4 * 2) & 3) as f32 - min;
            }
        }
    });
}

/// `block_q3_K`: 32 bytes, bit j of byte i being the upper bit of value 32 j + i, 64 bytes of lower bit pairs as in
/// q2_k, 12 bytes of 16 scales, d f16. Values are 4 too large, scales 32: their low nibbles are the low, then the high
/// nibbles of 8 bytes, their upper bit pairs are pairs 0 to 3 of the last 4 bytes.
pub fn q3_k(bytes: &[u8], out: &mut [f32]) {
    each(bytes, out, |b: &[u8; 110], y: &mut [f32; 256]| {
        let d = half(b, 108);
        for (j, y) in y.chunks_exact_mut(16).enumerate() {
            let scale = b[96 + j % 8] >> (j / 8 * 4) & 15 | (b[104 + j % 4] >> (j / 4 * 2) & 3) << 4;
            let d = d * (scale as f32 - 32.0);
            let i = j % 2 * 16;
            for ((y, q), h) in y.iter_mut().zip(&b[32 + j / 8 * 32 + i..]).zip(&b[i..]) {
                *y = d * ((q >> (j / 2 % 4 * 2) & 3 | (h >> (j / 2) & 1) << 2) as f32 - 4.0);
            }
        }
    });
}

/// Scale and minimum of sub-block `j` of 8, 6 bits each: 12 bytes hold the first four scales, the first four minima,
/// then a nibble of each of the last four, whose upper bits are the two free bits of the bytes before.
fn scale_min(s: &[u8], j: usize) -> (f32, f32) {
    let (scale, min) = if j < 4 {
        (s[j] & 63, s[j + 4] & 63)
    } else {
        (s[j + 4] & 15 | s[j - 4] >> 6 << 4, s[j + 4] >> 4 | s[j] >> 6 << 4)
    };
    (scale as f32, min as f32)
}

/// `block_q4_K`: d f16, dmin f16, 12 bytes of scales and minima, then 4 groups of 32 bytes, the low nibbles of a group
/// being one sub-block of 32 values, the high nibbles the next.
pub fn q4_k(bytes: &[u8], out: &mut [f32]) {
    each(bytes, out, |b: &[u8; 144], y: &mut [f32; 256]| {
        let (d, dmin) = (half(b, 0), half(b, 2));
        for (j, y) in y.chunks_exact_mut(32).enumerate() {
            let (scale, min) = scale_min(&b[4..16], j);
            let (d, min) = (d * scale, dmin * min);
            for (y, q) in y.iter_mut().zip(&b[16 + j / 2 * 32..]) {
                *y = d * (q >> (j % 2 * 4) & 15) as f32 - min;
            }
        }
    });
}

/// `block_q5_K`: as q4_k, with 32 bytes before the nibbles, bit j of byte i being the fifth bit of value i of
/// sub-block j.
pub fn q5_k(bytes: &[u8], out: &mut [f32]) {
    each(bytes, out, |b: &[u8; 176], y: &mut [f32; 256]| {
        let (d, dmin) = (half(b, 0), half(b, 2));
        for (j, y) in y.chunks_exact_mut(32).enumerate() {
            let (scale, min) = scale_min(&b[4..16], j);
            let (d, min) = (d * scale, dmin * min);
            for ((y, q), h) in y.iter_mut().zip(&b[48 + j / 2 * 32..]).zip(&b[16..]) {
                *y = d * (q >> (j % 2 * 4) & 15 | (h >> j & 1) << 4) as f32 - min;
            }
        }
    });
}

/// `block_q6_K`: 128 bytes of low nibbles, 64 bytes of upper bit pairs, 16 i8 scales, d f16. Each half of the block is
/// four groups of 32 values: nibbles low, low, high, high of 64 bytes, pairs 0 to 3 of 32 bytes; all 32 too large.
pub fn q6_k(bytes: &[u8], out: &mut [f32]) {
    each(bytes, out, |b: &[u8; 210], y: &mut [f32; 256]| {
        let d = half(b, 208);
        for (j, y) in y.chunks_exact_mut(16).enumerate() {
            let (group, i) = (j / 2 % 4, j % 2 * 16);
            let low = &b[j / 8 * 64 + group % 2 * 32 + i..];
            let high = &b[128 + j / 8 * 32 + i..];
            let d = d * b[192 + j] as i8 as f32;
            for ((y, l), h) in y.iter_mut().zip(low).zip(high) {
                *y = d * ((l >> (group / 2 * 4) & 15 | (h >> (group * 2) & 3) << 4) as f32 - 32.0);
            }
        }
    });
}
