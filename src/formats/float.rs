//! Formats of one value a block.

use super::each;

pub fn f32(bytes: &[u8], out: &mut [f32]) {
    each(bytes, out, |b: &[u8; 4], [y]: &mut [f32; 1]| *y = f32::from_le_bytes(*b));
}

pub fn f16(bytes: &[u8], out: &mut [f32]) {
    each(bytes, out, |b: &[u8; 2], [y]: &mut [f32; 1]| *y = half::f16::from_le_bytes(*b).to_f32());
}

pub fn bf16(bytes: &[u8], out: &mut [f32]) {
    each(bytes, out, |b: &[u8; 2], [y]: &mut [f32; 1]| *y = half::bf16::from_le_bytes(*b).to_f32());
}
