// mxfp4, ggml's block_mxfp4: 32 values 2^(e - 127) * e2m1.
// plane 0: 16 bytes, byte i holding the e2m1 of values i (low nibble) and i + 16
// plane 1: e, 8 bits
// Holds to e = 240: weights of 2^113, where the factor 2^14 overflows, are no weights.

const BLOCK: u32 = 32u;
const BODY_WORDS: u32 = 4u;

fn mxfp4_nibbles(row: u32, run: u32) -> vec4<u32> {
    return weight_quad((row >> 2u) + (run >> 1u)) >> vec4<u32>((run & 1u) * 4u);
}

fn mxfp4_exponent(tail: u32, run: u32) -> u32 {
    let block = run >> 1u;
    return (weight_word(tail + (block >> 2u)) >> ((block & 3u) * 8u)) & 255u;
}

fn decode16(row: u32, tail: u32, run: u32) -> mat4x4<f32> {
    let q = mxfp4_nibbles(row, run);
    let scale = bitcast<f32>((mxfp4_exponent(tail, run) + 14u) << 23u);
    return mat4x4<f32>(
        e2m1_values4(q.x) * scale,
        e2m1_values4(q.y) * scale,
        e2m1_values4(q.z) * scale,
        e2m1_values4(q.w) * scale,
    );
}

fn quants16(row: u32, tail: u32, run: u32) -> Quants {
    let q = e2m1_bytes(mxfp4_nibbles(row, run) & vec4<u32>(0x0f0f0f0fu));
    let scale = bitcast<f32>(mxfp4_exponent(tail, run) << 23u) * 0.5;
    return Quants(q, scale, -15.0 * scale);
}
