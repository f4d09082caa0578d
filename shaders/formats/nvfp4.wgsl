// nvfp4, ggml's block_nvfp4: 4 sub-blocks of 16 values ue4m3 * e2m1.
// plane 0: 8 bytes a sub-block, byte i holding the e2m1 of values i (low nibble) and i + 8
// plane 1: 4 bytes, the ue4m3 of the sub-blocks; 127, no number, is read as 0

const BLOCK: u32 = 64u;
const BODY_WORDS: u32 = 8u;

fn nvfp4_bytes(row: u32, run: u32) -> vec2<u32> {
    let two = weight_quad((row >> 2u) + (run >> 1u));
    return select(two.xy, two.zw, (run & 1u) != 0u);
}

// `factor` times a sub-block's scale: an f16, whose exponent bias is 8 larger.
fn nvfp4_scale(tail: u32, run: u32, factor: f32) -> f32 {
    let ue4m3 = (weight_word(tail + (run >> 2u)) >> ((run & 3u) * 8u)) & 255u;
    return select(unpack2x16float((ue4m3 & 127u) << 7u).x * factor, 0.0, ue4m3 == 127u);
}

fn decode16(row: u32, tail: u32, run: u32) -> mat4x4<f32> {
    let q = nvfp4_bytes(row, run);
    let scale = nvfp4_scale(tail, run, 4194304.0); // 2^8, and e2m1's 2^14
    return mat4x4<f32>(
        e2m1_values4(q.x) * scale,
        e2m1_values4(q.y) * scale,
        e2m1_values4(q.x >> 4u) * scale,
        e2m1_values4(q.y >> 4u) * scale,
    );
}

fn quants16(row: u32, tail: u32, run: u32) -> Quants {
    let q = nvfp4_bytes(row, run);
    let bytes = e2m1_bytes(vec4<u32>(q, q >> vec2<u32>(4u)) & vec4<u32>(0x0f0f0f0fu));
    let scale = nvfp4_scale(tail, run, 128.0);
    return Quants(bytes, scale, -15.0 * scale);
}
