// The low 16 bits as bit 4 of 16 bytes: the fifth bits of q5_0 and q5_1.
fn fifth_bits(bits: u32) -> vec4<u32> {
    let n = (vec4<u32>(bits) >> vec4<u32>(0u, 4u, 8u, 12u)) & vec4<u32>(15u);
    // Bit k of a nibble to bit 8k, then to bit 8k + 4: the factor's bits lie 7 apart, so that no two products meet.
    return ((n * 0x00204081u) & vec4<u32>(0x01010101u)) << vec4<u32>(4u);
}

