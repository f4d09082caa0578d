// mxfp4, ggml's block_mxfp4: 32 values 2^(e - 127) * e2m1.
// plane 0: 16 bytes, byte i holding the e2m1 of values i (low nibble) and i + 16
// plane 1: e, 8 bits
// Holds to e = 240: weights of 2^113, where the factor 2^14 overflows, are no weights.

const BLOCK: u32 = 32u;
const BODY_WORDS: u32 = 4u;

fn decode16(row: u32, tail: u32, run: u32) -> mat4x4<f32> {
    let block = run >> 1u;
    let q = weight_quad((row >> 2u) + block) >> vec4<u32>((run & 1u) * 4u);
    let e = (weight_word(tail + (block >> 2u)) >> ((block & 3u) * 8u)) & 255u;
    let scale = bitcast<f32>((e + 14u) << 23u);
    return mat4x4<f32>(
        e2m1_values4(q.x) * scale,
        e2m1_values4(q.y) * scale,
        e2m1_values4(q.z) * scale,
        e2m1_values4(q.w) * scale,
    );
}
