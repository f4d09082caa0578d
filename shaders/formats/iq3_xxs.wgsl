// iq3_xxs, ggml's block_iq3_xxs: 8 sub-blocks of 32 values d (2 scale + 1) / 4 * codebook value.
// plane 0: words 0..15: bytes, the index of 4 values
//     words 16..23: one a sub-block: 4 x 7 bits sign, 4 bits scale
// plane 1: d f16

const BLOCK: u32 = 256u;
const BODY_WORDS: u32 = 24u;

fn quants16(row: u32, tail: u32, run: u32) -> Quants {
    let block = run >> 4u;
    let body = row + block * 24u;
    let j = run & 15u;
    let entries = unpack4xU8(weight_word(body + j));
    let scale_signs = weight_word(body + 16u + (j >> 1u));
    let d = weight_f16(tail, block) * f32((scale_signs >> 28u) * 2u + 1u) * 0.25;
    let magnitudes = vec4<u32>(codebook[entries.x], codebook[entries.y], codebook[entries.z], codebook[entries.w]);
    return Quants(sign_bytes(magnitudes, even_signs(scale_signs >> ((j & 1u) * 14u))), d, 0.0);
}
