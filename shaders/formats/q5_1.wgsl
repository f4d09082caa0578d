// q5_1, ggml's block_q5_1: 32 values d q + m.
// plane 0: 16 bytes, byte i holding the lower four bits of q of values i (low nibble) and i + 16
// plane 1: d f16, m f16, 32 bits, the fifth of each q

const BLOCK: u32 = 32u;
const BODY_WORDS: u32 = 4u;

fn quants16(row: u32, tail: u32, run: u32) -> Quants {
    let block = run >> 1u;
    let low = weight_quad((row >> 2u) + block) >> vec4<u32>((run & 1u) * 4u);
    let bits = weight_word(tail + block * 2u + 1u) >> ((run & 1u) * 16u);
    let q = (low & vec4<u32>(0x0f0f0f0fu)) | (spread_bits(bits) << vec4<u32>(4u));
    let dm = unpack2x16float(weight_word(tail + block * 2u));
    return Quants(q, dm.x, dm.y);
}
