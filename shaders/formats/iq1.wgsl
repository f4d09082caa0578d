// An entry is 8 values of -1, 0, 1, each plus 1 in a nibble: values 0..3 in the low nibbles of the bytes, 4..7 in the
// high ones.
@group(0) @binding(9) var<storage, read> codebook: array<u32>; // [2048]

// scale (value + delta) for two entries; `negative` says whether an entry's delta is -1/8 or 1/8.
fn iq1_values(entries: vec2<u32>, scale: f32, negative: vec2<bool>) -> mat4x4<f32> {
    let a = codebook[entries.x];
    let b = codebook[entries.y];
    let offset = scale * select(vec2<f32>(-0.875), vec2<f32>(-1.125), negative);
    return mat4x4<f32>(
        scale_bytes4(a & 0x0f0f0f0fu, scale, offset.x),
        scale_bytes4((a >> 4u) & 0x0f0f0f0fu, scale, offset.x),
        scale_bytes4(b & 0x0f0f0f0fu, scale, offset.y),
        scale_bytes4((b >> 4u) & 0x0f0f0f0fu, scale, offset.y),
    );
}

