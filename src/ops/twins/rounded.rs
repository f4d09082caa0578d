//! Blocks of 32 rounded to i8: activations as integer dot products read them, and the rows of a q8_0 cache.

use super::round_f16;
use crate::ops::{BLOCK, BLOCK_WORDS, KvFormat};

/// x, a whole number of blocks, as shaders/lib/quantise.wgsl lays it out, bit for bit: 8 words of i8, the scale, the scale
/// times the sum of either half of the integers, and 0.
pub fn quantise(x: &[f32]) -> Vec<u32> {
    x.as_chunks::<BLOCK>().0.iter().flat_map(quantise_block).collect()
}

/// Integers of a block, and what they are to be multiplied with.
fn round_block(x: &[f32; BLOCK]) -> ([i8; BLOCK], f32) {
    let high = x.iter().fold(0f32, |high, x| high.max(x.abs()));
    let exponent = high.to_bits() >> 23;
    if exponent < 32 {
        return ([0; BLOCK], 0.0);
    }
    // 127 / high, of which 16 bits count: exact in any device's arithmetic.
    let ratio = 0x7f00_0000 / (((high.to_bits() & 0x7f_ffff | 0x80_0000) >> 8) + 1);
    let inverse = ratio as f32 * f32::from_bits((245 - exponent.min(244)) << 23);
    let q = x.map(|x| (x * inverse).round_ties_even().clamp(-127.0, 127.0) as i8);
    (q, high * 0.007_874_016) // 1 / 127
}

fn quantise_block(x: &[f32; BLOCK]) -> [u32; BLOCK_WORDS] {
    let mut words = [0; BLOCK_WORDS];
    let (q, scale) = round_block(x);
    let sum = |half: &[i8]| (scale * half.iter().map(|q| i32::from(*q)).sum::<i32>() as f32).to_bits();
    words[..8].copy_from_slice(&bytemuck::cast::<[i8; BLOCK], [u32; 8]>(q));
    words[8..11].copy_from_slice(&[scale.to_bits(), sum(&q[..16]), sum(&q[16..])]);
    words
}

/// The values that blocks of words stand for: what the twins of integer dot products are fed.
pub fn dequantise(words: &[u32]) -> Vec<f32> {
    let block = |words: &[u32; BLOCK_WORDS]| {
        let scale = f32::from_bits(words[8]);
        let q: [i8; BLOCK] = bytemuck::cast::<[u32; 8], _>(words[..8].try_into().expect("eight words"));
        q.map(|q| scale * f32::from(q))
    };
    words.as_chunks().0.iter().flat_map(block).collect()
}

/// Rows of heads of `dim` values as the words of a cache, plane behind plane, as shaders/lib/kv_write.wgsl lays them out.
pub fn cached(rows: &[f32], dim: usize, format: KvFormat) -> Vec<u32> {
    match format {
        KvFormat::F32 => rows.iter().map(|x| x.to_bits()).collect(),
        KvFormat::F16 => rows.as_chunks().0.iter().map(|[a, b]| pair(*a, *b)).collect(),
        KvFormat::Q8_0 => {
            let blocks: Vec<_> = rows.as_chunks().0.iter().map(round_block).collect();
            let values = blocks.iter().flat_map(|(q, _)| bytemuck::cast::<_, [u32; 8]>(*q));
            let scales = blocks.chunks(dim / BLOCK).flat_map(|head| head.chunks(2));
            values.chain(scales.map(|two| pair(two[0].1, two.get(1).map_or(0.0, |(_, scale)| *scale)))).collect()
        }
    }
}

/// What values are once they were in a cache.
pub fn kept(x: &[f32], format: KvFormat) -> Vec<f32> {
    match format {
        KvFormat::F32 => x.to_vec(),
        KvFormat::F16 => round_f16(x),
        KvFormat::Q8_0 => {
            let value = |(q, scale): ([i8; BLOCK], f32)| q.map(|q| f32::from(q) * half::f16::from_f32(scale).to_f32());
            x.as_chunks().0.iter().flat_map(|block| value(round_block(block))).collect()
        }
    }
}

fn pair(a: f32, b: f32) -> u32 {
    let [a, b] = [a, b].map(|x| u32::from(half::f16::from_f32(x).to_bits()));
    a | b << 16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_within_half_a_step_and_keeps_the_largest() {
        for power in [-90, -20, 0, 30, 117] {
            let high = 1.37 * 2f32.powi(power);
            let x: Vec<f32> = (0..BLOCK).map(|i| high * (i as f32 - 15.5) / 16.5).collect();
            let y = dequantise(&quantise(&x));
            let step = x[BLOCK - 1] / 127.0;
            assert!(x.iter().zip(&y).all(|(x, y)| (x - y).abs() <= 0.51 * step), "2^{power}: {x:?}, {y:?}");
            assert!((y[BLOCK - 1] - x[BLOCK - 1]).abs() < 1e-4 * step * 127.0);
        }
        assert_eq!(quantise(&[1e-30; BLOCK]), [0; BLOCK_WORDS]);
    }
}
