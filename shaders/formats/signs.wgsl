// Signs of the iq2 and iq3 formats: bit i set, value i is negative.

// The 2 x 8 signs that 2 x 7 bits stand for: in each 8 the number of negative values is even.
fn even_signs(bits: u32) -> u32 {
    let s = (vec2<u32>(bits) >> vec2<u32>(0u, 7u)) & vec2<u32>(127u);
    let even = s | ((countOneBits(s) & vec2<u32>(1u)) << vec2<u32>(7u));
    return even.x | (even.y << 8u);
}

// 16 bytes of 1 to 127, negative where `signs` says: as no byte is 0, the 1 that negation adds to the flipped bits stays in
// its byte.
fn sign_bytes(bytes: vec4<u32>, signs: u32) -> vec4<u32> {
    let negative = spread_bits(signs);
    return (bytes ^ ((negative << vec4<u32>(8u)) - negative)) + negative;
}

