// q4_0, ggml's block_q4_0: 32 values d (q - 8).
// plane 0: 16 bytes, byte i holding q of values i (low nibble) and i + 16
// plane 1: d f16

const BLOCK: u32 = 32u;
const BODY_WORDS: u32 = 4u;

fn quants16(row: u32, tail: u32, run: u32) -> Quants {
    let block = run >> 1u;
    let q = weight_quad((row >> 2u) + block) >> vec4<u32>((run & 1u) * 4u);
    let d = weight_f16(tail, block);
    return Quants(q & vec4<u32>(0x0f0f0f0fu), d, -8.0 * d);
}
