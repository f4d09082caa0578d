// q8_0, ggml's block_q8_0: 32 values d q.
// plane 0: 32 i8
// plane 1: d f16
// Flipping the sign bit adds 128: bytes turn to floats in one instruction where they are unsigned (v_cvt_f32_ubyte).

const BLOCK: u32 = 32u;
const BODY_WORDS: u32 = 8u;

fn decode16(row: u32, tail: u32, run: u32) -> mat4x4<f32> {
    let q = weight_quad((row >> 2u) + run) ^ vec4<u32>(0x80808080u);
    let d = weight_f16(tail, run >> 1u);
    return scale_bytes(q, d, -128.0 * d);
}
