//! Bytes of tensors without a file: blocks of every format that decode to finite weights of a wanted size, each made from the
//! seed and its place alone.

use super::usage::{Usage, best, normal};
use crate::formats::Format;
use std::sync::{Arc, OnceLock};

/// What a tensor holds.
#[derive(Clone, Debug)]
pub enum Content {
    /// Weights around 0 with this root mean square.
    Weights { format: Format, rms: f32 },
    /// The same in rows of so many blocks, of which the last `alike` are the same in all rows.
    Rows { format: Format, rms: f32, blocks: u64, alike: u64 },
    /// Rows of f32, one an expert, that choose as `skew` says.
    Router { columns: usize, skew: Skew },
    /// Values within `spread` of `around`, f32.
    Values { around: f32, spread: f32 },
    /// In each row of `used`, different ids below `count`, i32: as often as `skew` says, or all alike.
    Ids { used: u32, count: u32, skew: Option<Skew> },
}

/// Which experts of a layer tokens are to choose how often.
#[derive(Clone, Debug)]
pub struct Skew {
    pub usage: Arc<Usage>,
    pub layer: u64,
    /// What the last channels of a normalised input hold, whatever the token.
    pub steady: Arc<[f32]>,
}

impl Skew {
    /// What is added to the logits of a layer's experts.
    fn biases(&self) -> Vec<f32> {
        self.usage.ranks(self.layer).into_iter().map(|rank| self.usage.biases()[rank]).collect()
    }
}

/// Where a block's scale lies.
enum Scale {
    /// f16 at a byte.
    Half(usize),
    /// Beside it at another byte an f16 that is subtracted or added: so many times the scale that the mean is near 0.
    HalfAndMin(usize, usize, f32),
    /// An f16 in the high nibbles of four u16 (iq1_m).
    Nibbles(usize),
    /// A power of two (mxfp4).
    Exponent,
    /// Unsigned e4m3 of each quarter (nvfp4).
    Quarters,
    /// The values are floats themselves.
    None,
}

fn scale(format: Format) -> Scale {
    use Format::*;
    match format {
        F32 | F16 | BF16 => Scale::None,
        Q4_0 | Q5_0 | Q8_0 | IQ1S | IQ2XXS | IQ2XS | IQ2S | IQ3XXS | IQ3S | IQ4NL | IQ4XS => Scale::Half(0),
        Q4_1 => Scale::HalfAndMin(0, 2, -7.5),
        Q5_1 => Scale::HalfAndMin(0, 2, -15.5),
        Q2K => Scale::HalfAndMin(80, 82, 1.5),
        Q3K => Scale::Half(108),
        Q4K => Scale::HalfAndMin(0, 2, 7.5),
        Q5K => Scale::HalfAndMin(0, 2, 15.5),
        Q6K => Scale::Half(208),
        IQ1M => Scale::Nibbles(48),
        MXFP4 => Scale::Exponent,
        NVFP4 => Scale::Quarters,
        TQ1_0 => Scale::Half(52),
        TQ2_0 => Scale::Half(64),
    }
}

/// splitmix64 of a counter.
pub fn word(seed: u64, index: u64) -> u64 {
    let z = seed.wrapping_add((index.wrapping_add(1)).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// -1 to 1.
fn unit(word: u64) -> f32 {
    (word >> 40) as f32 / (1 << 23) as f32 - 1.0
}

/// The least f16 above 0.
const LEAST_HALF: f32 = 1.0 / (1 << 24) as f32;
/// Marks the words of scales among those of a seed.
const SCALES: u64 = 0x5ca1_e500_0000_0000;

/// The bytes of one tensor.
#[derive(Clone, Debug)]
pub struct Maker {
    content: Content,
    seed: u64,
    /// Of a block, before it varies.
    scale: f32,
    /// The scale in the byte of the formats that have it there; it does not vary.
    code: u8,
    /// Of a layer's experts, once they are asked for.
    biases: OnceLock<Vec<f32>>,
}

impl Maker {
    pub fn new(content: Content, seed: u64) -> Maker {
        let scale = match content {
            Content::Weights { format, rms } | Content::Rows { format, rms, .. } => rms / rms_at_1(format),
            Content::Router { columns, ref skew } => {
                1.0 / ((columns - skew.steady.len()) as f32).sqrt() / rms_at_1(Format::F32)
            }
            _ => 0.0,
        };
        Maker::scaled(content, seed, scale)
    }

    fn scaled(content: Content, seed: u64, scale: f32) -> Maker {
        let code = match content {
            Content::Weights { format, .. } | Content::Rows { format, .. } => match format {
                Format::MXFP4 => (127.0 + scale.log2().round()).clamp(1.0, 254.0) as u8,
                Format::NVFP4 => e4m3(scale),
                _ => 0,
            },
            _ => 0,
        };
        Maker { content, seed, scale, code, biases: OnceLock::new() }
    }

    fn biases(&self, skew: &Skew) -> &[f32] {
        self.biases.get_or_init(|| skew.biases())
    }

    /// Bytes that are made at once.
    pub fn block_bytes(&self) -> usize {
        match self.content {
            Content::Weights { format, .. } | Content::Rows { format, .. } => format.block_bytes(),
            Content::Values { .. } | Content::Router { .. } => 4,
            Content::Ids { used, .. } => 4 * used as usize,
        }
    }

    /// Makes one block.
    pub fn block(&self, index: u64, out: &mut [u8]) {
        match &self.content {
            Content::Weights { format, .. } => self.weights(*format, index, out),
            Content::Rows { format, blocks, alike, .. } => {
                let at = index % blocks;
                self.weights(*format, if at >= blocks - alike { at } else { index }, out)
            }
            Content::Router { columns, skew } => {
                let (row, column) = ((index / *columns as u64) as usize, (index % *columns as u64) as usize);
                match column.checked_sub(columns - skew.steady.len()) {
                    None => self.weights(Format::F32, index, out),
                    Some(at) => {
                        let power: f32 = skew.steady.iter().map(|c| c * c).sum();
                        out.copy_from_slice(&(self.biases(skew)[row] * skew.steady[at] / power).to_le_bytes());
                    }
                }
            }
            Content::Values { around, spread } => {
                out.copy_from_slice(&(around + spread * unit(word(self.seed, index))).to_le_bytes())
            }
            Content::Ids { count, used, skew } => {
                let ids = match skew {
                    None => {
                        let first = word(self.seed, index) % u64::from(*count);
                        (0..u64::from(*used)).map(|i| ((first + i) % u64::from(*count)) as u32).collect()
                    }
                    Some(skew) => {
                        let place = |e: usize| index * u64::from(*count) + e as u64;
                        let scores = self.biases(skew).iter().enumerate().map(|(e, b)| b + normal(self.seed, place(e)));
                        best(&scores.collect::<Vec<_>>(), *used as usize)
                    }
                };
                for (id, out) in ids.iter().zip(out.as_chunks_mut::<4>().0) {
                    *out = id.to_le_bytes();
                }
            }
        }
    }

    fn weights(&self, format: Format, index: u64, out: &mut [u8]) {
        let words = out.len().div_ceil(8) as u64;
        let (whole, rest) = out.as_chunks_mut::<8>();
        for (i, bytes) in whole.iter_mut().enumerate() {
            *bytes = word(self.seed, index * words + i as u64).to_le_bytes();
        }
        rest.copy_from_slice(&word(self.seed, (index + 1) * words - 1).to_le_bytes()[..rest.len()]);
        let random = word(self.seed ^ SCALES, index);
        // Blocks differ by up to a quarter.
        let d = (self.scale * (1.0 + 0.25 * unit(random))).max(LEAST_HALF);
        let half = |value: f32| half::f16::from_f32(value).to_le_bytes();
        match scale(format) {
            Scale::None => {
                let value = self.scale * unit(random);
                match format {
                    Format::F32 => out.copy_from_slice(&value.to_le_bytes()),
                    Format::F16 => out.copy_from_slice(&half(value)),
                    _ => out.copy_from_slice(&half::bf16::from_f32(value).to_le_bytes()),
                }
            }
            Scale::Half(at) => out[at..at + 2].copy_from_slice(&half(d)),
            Scale::HalfAndMin(at, min_at, ratio) => {
                out[at..at + 2].copy_from_slice(&half(d));
                out[min_at..min_at + 2].copy_from_slice(&half(ratio * d));
            }
            Scale::Nibbles(at) => {
                let bits = u16::from_le_bytes(half(d));
                for i in 0..4 {
                    let high = &mut out[at + 2 * i + 1];
                    *high = *high & 15 | ((bits >> (4 * i) & 15) as u8) << 4;
                }
            }
            Scale::Exponent => out[0] = self.code,
            Scale::Quarters => out[..4].fill(self.code),
        }
    }
}

/// The nearest positive e4m3 below 256.
fn e4m3(value: f32) -> u8 {
    let exponent = value.log2().floor().clamp(-6.0, 7.0);
    let steps = (value / exponent.exp2() * 8.0).round().clamp(1.0, 15.0) as u8;
    // Below 8 eighths there is no leading one: the exponent is the least, and its field 0.
    if steps < 8 { steps } else { ((exponent + 7.0) as u8) << 3 | (steps - 8) }
}

/// The root mean square of a format's weights where its scale is 1.
fn rms_at_1(format: Format) -> f32 {
    const BLOCKS: usize = 64;
    let maker = Maker::scaled(Content::Weights { format, rms: 1.0 }, 1, 1.0);
    let blocks = BLOCKS * 256 / format.block();
    let mut bytes = vec![0; blocks * format.block_bytes()];
    for (i, block) in bytes.chunks_mut(format.block_bytes()).enumerate() {
        maker.block(i as u64, block);
    }
    let mut values = vec![0.0; blocks * format.block()];
    format.decode(&bytes, &mut values);
    (values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_gets_finite_weights_of_the_wanted_size() {
        for format in Format::ALL {
            // nvfp4 has no smaller scale than 2^-9.
            let least = if *format == Format::NVFP4 { 0.006 } else { 0.002 };
            for wanted in [least, 0.02, 0.5] {
                let maker = Maker::new(Content::Weights { format: *format, rms: wanted }, 7);
                let mut bytes = vec![0; 512 * format.block_bytes()];
                for (i, block) in bytes.chunks_mut(format.block_bytes()).enumerate() {
                    maker.block(i as u64, block);
                }
                let mut values = vec![0.0; 512 * format.block()];
                format.decode(&bytes, &mut values);
                assert!(values.iter().all(|v| v.is_finite()), "{format}");
                let rms = (values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32).sqrt();
                // Powers of two and e4m3 below 2^-6 are coarse.
                let off = if matches!(format, Format::MXFP4 | Format::NVFP4) { 1.45 } else { 1.1 };
                assert!(rms < off * wanted && rms > wanted / off, "{format}: {rms}, wanted {wanted}");
                let mean = values.iter().sum::<f32>() / values.len() as f32;
                assert!(mean.abs() < 0.6 * rms, "{format}: mean {mean}, {rms}");
            }
        }
    }

    #[test]
    fn ids_of_a_row_differ() {
        let maker = Maker::new(Content::Ids { used: 6, count: 8, skew: None }, 3);
        let mut row = [0; 24];
        for index in 0..100 {
            maker.block(index, &mut row);
            let ids: Vec<i32> = row.as_chunks::<4>().0.iter().map(|id| i32::from_le_bytes(*id)).collect();
            assert!(ids.iter().enumerate().all(|(i, id)| (0..8).contains(id) && !ids[..i].contains(id)), "{ids:?}");
        }
    }
}
