// A block of 32 activations, rounded: three quads, of which two are i8 in order, and the third is the scale and, of either
// half of the block, the scale times the sum of its integers, for weights with an offset.
// Each step is one that WGSL rounds correctly, so every device gives the same bits: x / scale would not (division is good to
// 2.5 ulp), so 127 / max is made of an integer division, 16 bits of it, never too large.
fn quantise32(v: array<vec4<f32>, 8>) -> array<vec4<u32>, 3> {
    var highs = abs(v[0]);
    for (var i = 1u; i < 8u; i++) {
        highs = max(highs, abs(v[i]));
    }
    let high = max(max(highs.x, highs.y), max(highs.z, highs.w));
    let bits = bitcast<u32>(high);
    let exponent = bits >> 23u;
    // Below 2^-95 a block is zero, above 2^118 it saturates.
    if exponent < 32u {
        return array<vec4<u32>, 3>();
    }
    let ratio = 0x7f000000u / ((((bits & 0x007fffffu) | 0x00800000u) >> 8u) + 1u);
    let inverse = f32(ratio) * bitcast<f32>((245u - min(exponent, 244u)) << 23u);
    var q: array<u32, 8>;
    for (var i = 0u; i < 8u; i++) {
        q[i] = pack4xI8(vec4<i32>(clamp(round(v[i] * inverse), vec4(-127.0), vec4(127.0))));
    }
    var sums: array<i32, 2>;
    for (var i = 0u; i < 8u; i++) {
        sums[i / 4u] += dot4I8Packed(q[i], 0x01010101u);
    }
    let scale = high * 0.007874016; // 1 / 127
    return array<vec4<u32>, 3>(
        vec4(q[0], q[1], q[2], q[3]),
        vec4(q[4], q[5], q[6], q[7]),
        bitcast<vec4<u32>>(vec4(scale, scale * f32(sums[0]), scale * f32(sums[1]), 0.0)),
    );
}
