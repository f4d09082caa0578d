// Scale and minimum of sub-block j of 8, in q4_k and q5_k. header: d and dmin f16, then three words of 6-bit numbers:
// scales 0..3, minima 0..3, and nibbles of scales and minima 4..7, whose upper bits are the free ones of the words
// before.
fn k_scale_min(header: vec4<u32>, j: u32) -> vec2<f32> {
    let s = header.yzw >> vec3<u32>((j & 3u) * 8u);
    let first = s.xy & vec2<u32>(63u);
    let last = (vec2<u32>(s.z, s.z >> 4u) & vec2<u32>(15u)) | ((s.xy >> vec2<u32>(2u)) & vec2<u32>(48u));
    return unpack2x16float(header.x) * vec2<f32>(select(last, first, j < 4u));
}

