// nvfp4, ggml's block_nvfp4: 4 sub-blocks of 16 values ue4m3 * e2m1.
// plane 0: 8 bytes a sub-block, byte i holding the e2m1 of values i (low nibble) and i + 8
// plane 1: 4 bytes, the ue4m3 of the sub-blocks; 127, no number, is read as 0

const BLOCK: u32 = 64u;
const BODY_WORDS: u32 = 8u;

fn decode16(row: u32, tail: u32, run: u32) -> mat4x4<f32> {
    let two = weight_quad((row >> 2u) + (run >> 1u));
    let q = select(two.xy, two.zw, (run & 1u) != 0u);
    let ue4m3 = (weight_word(tail + (run >> 2u)) >> ((run & 3u) * 8u)) & 255u;
    // As an f16, whose exponent bias is 8 larger; and e2m1's 2^-14.
    let scale = select(unpack2x16float((ue4m3 & 127u) << 7u).x * 4194304.0, 0.0, ue4m3 == 127u);
    return mat4x4<f32>(
        e2m1_values4(q.x) * scale,
        e2m1_values4(q.y) * scale,
        e2m1_values4(q.x >> 4u) * scale,
        e2m1_values4(q.y >> 4u) * scale,
    );
}
