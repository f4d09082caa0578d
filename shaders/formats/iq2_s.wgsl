// iq2_s, ggml's block_iq2_s: 16 sub-blocks of 16 values d (2 scale + 1) / 8 * codebook value.
// plane 0: words 0..7: bytes, the lower 8 bits of the index of 8 values
//     words 8..15: sign bits
//     words 16..17: nibbles, 2 x 2 upper index bits of a sub-block
//     words 18..19: nibbles, scale
// plane 1: d f16

const BLOCK: u32 = 256u;
const BODY_WORDS: u32 = 20u;

fn quants16(row: u32, tail: u32, run: u32) -> Quants {
    let block = run >> 4u;
    let body = row + block * 20u;
    let j = run & 15u;
    let low = weight_word(body + (j >> 1u)) >> ((j & 1u) * 16u);
    let signs = weight_word(body + 8u + (j >> 1u)) >> ((j & 1u) * 16u);
    let high = weight_word(body + 16u + (j >> 3u)) >> ((j & 7u) * 4u);
    let scale = (weight_word(body + 18u + (j >> 3u)) >> ((j & 7u) * 4u)) & 15u;
    let d = weight_f16(tail, block) * f32(scale * 2u + 1u) * 0.125;
    let a = (low & 255u) | ((high & 3u) << 8u);
    let b = ((low >> 8u) & 255u) | ((high & 12u) << 6u);
    return Quants(sign_bytes(iq2_magnitudes(a, b), signs), d, 0.0);
}
