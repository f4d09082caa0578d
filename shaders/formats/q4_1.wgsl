// q4_1, ggml's block_q4_1: 32 values d q + m.
// plane 0: 16 bytes, byte i holding q of values i (low nibble) and i + 16
// plane 1: d f16, m f16

const BLOCK: u32 = 32u;
const BODY_WORDS: u32 = 4u;

fn quants16(row: u32, tail: u32, run: u32) -> Quants {
    let block = run >> 1u;
    let q = weight_quad((row >> 2u) + block) >> vec4<u32>((run & 1u) * 4u);
    let dm = unpack2x16float(weight_word(tail + block));
    return Quants(q & vec4<u32>(0x0f0f0f0fu), dm.x, dm.y);
}
