// A block of 32 activations, rounded: three quads, of which two are i8 in order, and the third is the scale and, of either
// half of the block, the scale times the sum of its integers, for weights with an offset.
#import lib/round8
fn quantise32(v: array<vec4<f32>, 8>) -> array<vec4<u32>, 3> {
    var highs = abs(v[0]);
    for (var i = 1u; i < 8u; i++) {
        highs = max(highs, abs(v[i]));
    }
    let high = max(max(highs.x, highs.y), max(highs.z, highs.w));
    let inverse = inverse127(high);
    if inverse == 0.0 {
        return array<vec4<u32>, 3>();
    }
    var q: array<u32, 8>;
    for (var i = 0u; i < 8u; i++) {
        q[i] = round8(v[i], inverse);
    }
    var sums: array<i32, 2>;
    for (var i = 0u; i < 8u; i++) {
        sums[i / 4u] += dot4I8Packed(q[i], 0x01010101u);
    }
    let scale = high * ONE_127TH;
    return array<vec4<u32>, 3>(
        vec4(q[0], q[1], q[2], q[3]),
        vec4(q[4], q[5], q[6], q[7]),
        bitcast<vec4<u32>>(vec4(scale, scale * f32(sums[0]), scale * f32(sums[1]), 0.0)),
    );
}
