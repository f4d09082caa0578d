// q4_k, ggml's block_q4_K: 8 sub-blocks of 32 values d scale q - dmin min. As in the file, 9 quads:
// quad 0: d f16, dmin f16, 8 scales and 8 minima of 6 bits
// quads 1..8: q, 32 bytes for two sub-blocks, low nibbles and high

const BLOCK: u32 = 256u;
const BODY_WORDS: u32 = 36u;

fn quants16(row: u32, tail: u32, run: u32) -> Quants {
    let block = (row >> 2u) + (run >> 4u) * 9u;
    let j = (run >> 1u) & 7u;
    let q = weight_quad(block + 1u + (j >> 1u) * 2u + (run & 1u)) >> vec4<u32>((j & 1u) * 4u);
    let s = k_scale_min(weight_quad(block), j);
    return Quants(q & vec4<u32>(0x0f0f0f0fu), s.x, -s.y);
}
