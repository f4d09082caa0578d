// Signs of the iq2 and iq3 formats: bit i set, value i is negative.

// The 2 x 8 signs that 2 x 7 bits stand for: in each 8 the number of negative values is even.
fn even_signs(bits: u32) -> u32 {
    let s = (vec2<u32>(bits) >> vec2<u32>(0u, 7u)) & vec2<u32>(127u);
    let even = s | ((countOneBits(s) & vec2<u32>(1u)) << vec2<u32>(7u));
    return even.x | (even.y << 8u);
}

fn signed_bytes4(bytes: u32, scale: f32, signs: u32) -> vec4<f32> {
    let flip = (vec4<u32>(signs) << vec4<u32>(31u, 30u, 29u, 28u)) & vec4<u32>(0x80000000u);
    return bitcast<vec4<f32>>(bitcast<vec4<u32>>(vec4<f32>(unpack4xU8(bytes)) * scale) ^ flip);
}

// scale * byte, negative where `signs` says, for 16 bytes.
fn signed_bytes(bytes: vec4<u32>, scale: f32, signs: u32) -> mat4x4<f32> {
    return mat4x4<f32>(
        signed_bytes4(bytes.x, scale, signs),
        signed_bytes4(bytes.y, scale, signs >> 4u),
        signed_bytes4(bytes.z, scale, signs >> 8u),
        signed_bytes4(bytes.w, scale, signs >> 12u),
    );
}

