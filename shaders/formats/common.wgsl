// What most formats share; every format is composed with it.

// Sixteen weights in integers: scale * q + offset, where q are i8, four a word, in the order of decode16.
struct Quants {
    q: vec4<u32>,
    scale: f32,
    offset: f32,
}

// scale * byte + offset, for 4 unsigned bytes. The product fits 24 bits, so fma changes no result; it keeps compilers
// from making scale * (byte - 8) of an offset of -8 scale, an instruction more a weight (seen with RADV).
fn scale_bytes4(bytes: u32, scale: f32, offset: f32) -> vec4<f32> {
    return fma(vec4<f32>(unpack4xU8(bytes)), vec4<f32>(scale), vec4<f32>(offset));
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

// f16 number i of the packed ones that start at word `base`. Scales of small weights are subnormal: WGSL lets a device
// flush those, and the test on arbitrary bytes would show it.
fn weight_f16(base: u32, i: u32) -> f32 {
    return unpack2x16float(weight_word(base + (i >> 1u)) >> ((i & 1u) * 16u)).x;
}

// The low 16 bits, one in each of 16 bytes.
fn spread_bits(bits: u32) -> vec4<u32> {
    let nibbles = (vec4<u32>(bits) >> vec4<u32>(0u, 4u, 8u, 12u)) & vec4<u32>(15u);
    // Bit k to bit 8k. The factor's bits lie 7 apart, so that no two products meet.
    return (nibbles * 0x00204081u) & vec4<u32>(0x01010101u);
}

