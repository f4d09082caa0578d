// iq3_s, ggml's block_iq3_s: 8 sub-blocks of 32 values d (2 scale + 1) * codebook value.
// plane 0: words 0..15: bytes, the lower 8 bits of the index of 4 values
//     words 16..17: the ninth bits
//     words 18..25: sign bits
//     word 26: nibbles, scale
// plane 1: d f16

const BLOCK: u32 = 256u;
const BODY_WORDS: u32 = 27u;

fn quants16(row: u32, tail: u32, run: u32) -> Quants {
    let block = run >> 4u;
    let body = row + block * 27u;
    let j = run & 15u;
    let high = vec4<u32>(weight_word(body + 16u + (j >> 3u)) >> ((j & 7u) * 4u)) << vec4<u32>(8u, 7u, 6u, 5u);
    let entries = unpack4xU8(weight_word(body + j)) | (high & vec4<u32>(256u));
    let signs = weight_word(body + 18u + (j >> 1u)) >> ((j & 1u) * 16u);
    let scale = (weight_word(body + 26u) >> ((j >> 1u) * 4u)) & 15u;
    let d = weight_f16(tail, block) * f32(scale * 2u + 1u);
    let magnitudes = vec4<u32>(codebook[entries.x], codebook[entries.y], codebook[entries.z], codebook[entries.w]);
    return Quants(sign_bytes(magnitudes, signs), d, 0.0);
}
