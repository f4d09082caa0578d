// iq4_nl, ggml's block_iq4_nl: 32 values d * codebook value.
// plane 0: 16 bytes, byte i holding the index of values i (low nibble) and i + 16
// plane 1: d f16

const BLOCK: u32 = 32u;
const BODY_WORDS: u32 = 4u;

fn decode16(row: u32, tail: u32, run: u32) -> mat4x4<f32> {
    let block = run >> 1u;
    let q = weight_quad((row >> 2u) + block) >> vec4<u32>((run & 1u) * 4u);
    return iq4_values(q & vec4<u32>(0x0f0f0f0fu), weight_f16(tail, block));
}
