// q5_0, ggml's block_q5_0: 32 values d (q - 16).
// plane 0: 16 bytes, byte i holding the lower four bits of q of values i (low nibble) and i + 16
// plane 1: 32 bits, the fifth of each q
// plane 2: d f16

const BLOCK: u32 = 32u;
const BODY_WORDS: u32 = 4u;

fn quants16(row: u32, tail: u32, run: u32) -> Quants {
    let block = run >> 1u;
    let blocks = (tail - row) >> 2u;
    let low = weight_quad((row >> 2u) + block) >> vec4<u32>((run & 1u) * 4u);
    let bits = weight_word(tail + block) >> ((run & 1u) * 16u);
    let q = (low & vec4<u32>(0x0f0f0f0fu)) | (spread_bits(bits) << vec4<u32>(4u));
    let d = weight_f16(tail + blocks, block);
    return Quants(q, d, -16.0 * d);
}
