//! Activations as integer dot products read them: rounded to i8 per block of 32.

use crate::ops::{BLOCK, BLOCK_WORDS};

/// x, a whole number of blocks, as shaders/lib/quantise.wgsl lays it out, bit for bit: 8 words of i8, the scale, the scale
/// times the sum of either half of the integers, and 0.
pub fn quantise(x: &[f32]) -> Vec<u32> {
    x.as_chunks::<BLOCK>().0.iter().flat_map(quantise_block).collect()
}

fn quantise_block(x: &[f32; BLOCK]) -> [u32; BLOCK_WORDS] {
    let mut words = [0; BLOCK_WORDS];
    let high = x.iter().fold(0f32, |high, x| high.max(x.abs()));
    let exponent = high.to_bits() >> 23;
    if exponent < 32 {
        return words;
    }
    // 127 / high, of which 16 bits count: exact in any device's arithmetic.
    let ratio = 0x7f00_0000 / (((high.to_bits() & 0x7f_ffff | 0x80_0000) >> 8) + 1);
    let inverse = ratio as f32 * f32::from_bits((245 - exponent.min(244)) << 23);
    let q = x.map(|x| (x * inverse).round_ties_even().clamp(-127.0, 127.0) as i8);
    let scale = high * 0.007_874_016; // 1 / 127
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
