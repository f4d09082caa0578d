// Signs of the iq2 and iq3 formats: bit i set, value i is negative.

// The 2 x 8 signs that 2 x 7 bits stand for: in each 8 the number of negative values is even.
fn even_signs(bits: u32) -> u32 {
    let s = (vec2<u32>(bits) >> vec2<u32>(0u, 7u)) & vec2<u32>(127u);
    let even = s | ((countOneBits(s) & vec2<u32>(1u)) << vec2<u32>(7u));
    return even.x | (even.y << 8u);
}

// scale * byte, negative where `signs` says, for 16 bytes below 128.
// They become 127 - byte or 127 + byte, four at once; to flip the signs of floats takes 19 instructions more
// (gfx1100).
fn scale_signed(bytes: vec4<u32>, scale: f32, signs: u32) -> mat4x4<f32> {
    let negative = spread_bits(signs);
    let mask = (negative << vec4<u32>(7u)) - negative;
    return scale_bytes((bytes ^ mask) + (mask ^ vec4<u32>(0x7f7f7f7fu)), scale, -127.0 * scale);
}

