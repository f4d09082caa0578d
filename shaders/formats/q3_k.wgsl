// q3_k, ggml's block_q3_K: 16 sub-blocks of 16 values d (scale - 32) (q - 4).
// plane 0: 6 quads:
//     quads 0..1: bit j of byte i is the upper bit of q of value 32j + i
//     quads 2..5: lower bit pairs of q, 32 bytes for each half of the block, whose pair k is values 32k .. 32k + 31
// plane 1: scales, 3 words: lower four bits of scales 0..7 (low nibbles) and 8..15 in 8 bytes; upper pairs in 4 bytes,
//     pair k of which is scales 4k .. 4k + 3
// plane 2: d f16

const BLOCK: u32 = 256u;
const BODY_WORDS: u32 = 24u;

fn quants16(row: u32, tail: u32, run: u32) -> Quants {
    let block = run >> 4u;
    let j = run & 15u;
    let body = (row >> 2u) + block * 6u;
    let low = weight_quad(body + 2u + (j >> 3u) * 2u + (j & 1u)) >> vec4<u32>(j & 6u);
    let high = weight_quad(body + (j & 1u)) >> vec4<u32>(j >> 1u);
    let q = (low & vec4<u32>(0x03030303u)) | ((high & vec4<u32>(0x01010101u)) << vec4<u32>(2u));

    let scales = tail + block * 3u;
    let byte = (j & 3u) * 8u;
    let scale_low = (weight_word(scales + ((j >> 2u) & 1u)) >> (byte + (j >> 3u) * 4u)) & 15u;
    let scale_high = (weight_word(scales + 2u) >> (byte + (j >> 2u) * 2u)) & 3u;
    // 3 words of scales for 24 of plane 0.
    let d = weight_f16(tail + ((tail - row) >> 3u), block) * (f32(scale_low | (scale_high << 4u)) - 32.0);
    return Quants(q, d, -4.0 * d);
}
