// iq2_xxs, ggml's block_iq2_xxs: 8 sub-blocks of 32 values d (2 scale + 1) / 8 * codebook value.
// plane 0: 2 words a sub-block: 4 bytes, the index of 8 values; 4 x 7 bits sign, 4 bits scale
// plane 1: d f16

const BLOCK: u32 = 256u;
const BODY_WORDS: u32 = 16u;

fn quants16(row: u32, tail: u32, run: u32) -> Quants {
    let two = weight_quad((row >> 2u) + (run >> 2u));
    let q = select(two.xy, two.zw, (run & 2u) != 0u);
    let entries = q.x >> ((run & 1u) * 16u);
    let d = weight_f16(tail, run >> 4u) * f32((q.y >> 28u) * 2u + 1u) * 0.125;
    let magnitudes = iq2_magnitudes(entries & 255u, (entries >> 8u) & 255u);
    return Quants(sign_bytes(magnitudes, even_signs(q.y >> ((run & 1u) * 14u))), d, 0.0);
}
