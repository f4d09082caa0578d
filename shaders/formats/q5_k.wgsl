// q5_k, ggml's block_q5_K: 8 sub-blocks of 32 values d scale q - dmin min. As in the file, 11 quads:
// quad 0: d f16, dmin f16, 8 scales and 8 minima of 6 bits
// quads 1..2: bit j of byte i is the fifth bit of value i of sub-block j
// quads 3..10: the other four, 32 bytes for two sub-blocks, low nibbles and high

const BLOCK: u32 = 256u;
const BODY_WORDS: u32 = 44u;

fn quants16(row: u32, tail: u32, run: u32) -> Quants {
    let block = (row >> 2u) + (run >> 4u) * 11u;
    let j = (run >> 1u) & 7u;
    let low = weight_quad(block + 3u + (j >> 1u) * 2u + (run & 1u)) >> vec4<u32>((j & 1u) * 4u);
    let high = weight_quad(block + 1u + (run & 1u)) >> vec4<u32>(j);
    let q = (low & vec4<u32>(0x0f0f0f0fu)) | ((high & vec4<u32>(0x01010101u)) << vec4<u32>(4u));
    let s = k_scale_min(weight_quad(block), j);
    return Quants(q, s.x, -s.y);
}
