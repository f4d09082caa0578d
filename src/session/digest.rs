//! A check against accidents: bytes that changed, another model. It is no defence against who makes them collide on purpose.

use super::Result;
use crate::gguf::{self, Gguf};

/// FNV-1a (Fowler, Noll, Vo 1991) over words of 8 bytes in place of bytes. Each step is a bijection of the sum, so a change
/// within one word is always seen.
#[derive(Clone, Copy)]
pub struct Digest(u64);

impl Digest {
    pub fn new() -> Digest {
        Digest(0xcbf2_9ce4_8422_2325)
    }

    /// Takes in `bytes` and their count: the same bytes in other pieces have another digest.
    pub fn add(&mut self, bytes: &[u8]) {
        let mut word = |word: u64| self.0 = (self.0 ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(29);
        word(bytes.len() as u64);
        let (words, rest) = bytes.as_chunks::<8>();
        words.iter().for_each(|bytes| word(u64::from_le_bytes(*bytes)));
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        word(u64::from_le_bytes(last));
    }

    pub fn value(self) -> u64 {
        self.0
    }
}

/// Tensors of which a part is read, and how much of each.
const SAMPLES: usize = 64;
const SAMPLE_BYTES: u64 = 4096;

/// See [`super::Model::fingerprint`].
pub async fn fingerprint(gguf: &Gguf) -> Result<u64> {
    let mut digest = Digest::new();
    digest.add(&gguf::header(gguf.metadata(), gguf.tensors())?);
    let tensors = gguf.tensors();
    for tensor in tensors.iter().step_by(tensors.len().div_ceil(SAMPLES).max(1)) {
        let count = tensor.bytes.min(SAMPLE_BYTES);
        digest.add(&gguf.read(tensor, (tensor.bytes - count) / 2, count as usize, std::mem::take).await?);
    }
    Ok(digest.value())
}

#[cfg(test)]
mod tests {
    use super::Digest;

    #[test]
    fn any_bit_counts_and_so_do_lengths() {
        let of = |bytes: &[u8]| {
            let mut digest = Digest::new();
            digest.add(bytes);
            digest.value()
        };
        let bytes: Vec<u8> = (0..43).collect();
        for bit in 0..8 * bytes.len() {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(of(&bytes), of(&changed), "bit {bit}");
        }
        assert_ne!(of(&[0; 8]), of(&[0; 9]));
    }
}
