// What most formats share; every format is composed with it. All products below fit 24 bits: exact, with or without contraction to fma.

// scale * byte + offset, for 4 unsigned bytes.
fn scale_bytes4(bytes: u32, scale: f32, offset: f32) -> vec4<f32> {
    return vec4<f32>(unpack4xU8(bytes)) * scale + vec4<f32>(offset);
}

// scale * byte + offset, for 16 unsigned bytes.
fn scale_bytes(bytes: vec4<u32>, scale: f32, offset: f32) -> mat4x4<f32> {
    return mat4x4<f32>(
        scale_bytes4(bytes.x, scale, offset),
        scale_bytes4(bytes.y, scale, offset),
        scale_bytes4(bytes.z, scale, offset),
        scale_bytes4(bytes.w, scale, offset),
    );
}

// f16 number i of the packed ones that start at word `base`.
fn weight_f16(base: u32, i: u32) -> f32 {
    return unpack2x16float(weight_word(base + (i >> 1u)) >> ((i & 1u) * 16u)).x;
}

