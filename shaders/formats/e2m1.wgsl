// 2^-14 times the 4-bit floats in the low nibbles of 4 bytes: 1 sign, 2 exponent and 1 mantissa bits become those of an
// f16, whose exponent bias is 14 larger; 0.5, subnormal in both, included.
fn e2m1_values4(nibbles: u32) -> vec4<f32> {
    let even = unpack2x16float(((nibbles & 0x00070007u) << 9u) | ((nibbles & 0x00080008u) << 12u));
    let odd = unpack2x16float(((nibbles & 0x07000700u) << 1u) | ((nibbles & 0x08000800u) << 4u));
    return vec4<f32>(even.x, odd.x, even.y, odd.y);
}

