// iq2_xs, ggml's block_iq2_xs: 16 sub-blocks of 16 values d (2 scale + 1) / 8 * codebook value.
// plane 0: words 0..15: 2 u16 a sub-block, 9 bits index and 7 bits sign of 8 values
//     words 16..17: nibbles, scale
// plane 1: d f16

const BLOCK: u32 = 256u;
const BODY_WORDS: u32 = 18u;

fn quants16(row: u32, tail: u32, run: u32) -> Quants {
    let block = run >> 4u;
    let body = row + block * 18u;
    let j = run & 15u;
    let q = weight_word(body + j);
    let scale = (weight_word(body + 16u + (j >> 3u)) >> ((j & 7u) * 4u)) & 15u;
    let d = weight_f16(tail, block) * f32(scale * 2u + 1u) * 0.125;
    let signs = even_signs(((q >> 9u) & 0x7fu) | ((q >> 18u) & 0x3f80u));
    return Quants(sign_bytes(iq2_magnitudes(q & 511u, (q >> 16u) & 511u), signs), d, 0.0);
}
