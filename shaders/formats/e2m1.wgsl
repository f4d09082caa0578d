// 2^-14 times the 4-bit floats in the low nibbles of 4 bytes: 1 sign, 2 exponent and 1 mantissa bits become those of an
// f16, whose exponent bias is 14 larger; 0.5, subnormal in both, included.
fn e2m1_values4(nibbles: u32) -> vec4<f32> {
    let even = unpack2x16float(((nibbles & 0x00070007u) << 9u) | ((nibbles & 0x00080008u) << 12u));
    let odd = unpack2x16float(((nibbles & 0x07000700u) << 1u) | ((nibbles & 0x08000800u) << 4u));
    return vec4<f32>(even.x, odd.x, even.y, odd.y);
}

// 15 plus twice those floats, a byte each: 15 plus or minus 0, 1, 2, 3, 4, 6, 8 or 12.
fn e2m1_bytes(nibbles: vec4<u32>) -> vec4<u32> {
    let one = vec4<u32>(0x01010101u);
    let halves = nibbles >> vec4<u32>(1u);
    let large = (nibbles >> vec4<u32>(2u)) & one;
    // 4 to 7 stand for 4, 6, 8, 12: their low two bits more, and of 7 another 2.
    let low = nibbles & (large | (large << vec4<u32>(1u)));
    let magnitude = (nibbles & vec4<u32>(0x07070707u)) + low + ((nibbles & halves & large) << vec4<u32>(1u));
    let negative = (nibbles >> vec4<u32>(3u)) & one;
    let mask = (negative << vec4<u32>(4u)) - negative;
    return (magnitude ^ mask) + (mask ^ vec4<u32>(0x0f0f0f0fu));
}

