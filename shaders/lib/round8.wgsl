// Rounding to i8 by the largest of a block.
// Each step is one that WGSL rounds correctly, so every device gives the same bits: x / scale would not (division is good to
// 2.5 ulp), so 127 / max is made of an integer division, 16 bits of it, never too large.
fn inverse127(high: f32) -> f32 {
    let bits = bitcast<u32>(high);
    let exponent = bits >> 23u;
    // Below 2^-95 a block is zero, above 2^118 it saturates.
    if exponent < 32u {
        return 0.0;
    }
    let ratio = 0x7f000000u / ((((bits & 0x007fffffu) | 0x00800000u) >> 8u) + 1u);
    return f32(ratio) * bitcast<f32>((245u - min(exponent, 244u)) << 23u);
}

fn round8(v: vec4<f32>, inverse: f32) -> u32 {
    return pack4xI8(vec4<i32>(clamp(round(v * inverse), vec4(-127.0), vec4(127.0))));
}

const ONE_127TH: f32 = 0.007874016;
