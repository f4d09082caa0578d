// An entry is 8 values of -1, 0, 1, each plus 1 in a nibble: values 0..3 in the low nibbles of the bytes, 4..7 in the
// high ones.
@group(0) @binding(9) var<storage, read> codebook: array<u32>; // [2048]

// A run: two entries, and of each whether delta is -1/8 rather than 1/8.
struct IQ1 {
    entries: vec2<u32>,
    scale: f32,
    negative: vec2<bool>,
}

// scale (value + delta)
fn decode16(row: u32, tail: u32, run: u32) -> mat4x4<f32> {
    let w = iq1_run(row, tail, run);
    let a = codebook[w.entries.x];
    let b = codebook[w.entries.y];
    let offset = w.scale * select(vec2<f32>(-0.875), vec2<f32>(-1.125), w.negative);
    return mat4x4<f32>(
        scale_bytes4(a & 0x0f0f0f0fu, w.scale, offset.x),
        scale_bytes4((a >> 4u) & 0x0f0f0f0fu, w.scale, offset.x),
        scale_bytes4(b & 0x0f0f0f0fu, w.scale, offset.y),
        scale_bytes4((b >> 4u) & 0x0f0f0f0fu, w.scale, offset.y),
    );
}

// The same as scale / 8 (8 (value + 1) + (0 or 2) - 9).
fn quants16(row: u32, tail: u32, run: u32) -> Quants {
    let w = iq1_run(row, tail, run);
    let book = vec2<u32>(codebook[w.entries.x], codebook[w.entries.y]);
    let eights = (vec4<u32>(book << vec2<u32>(3u), book >> vec2<u32>(1u)) & vec4<u32>(0x78787878u)).xzyw;
    let q = eights | select(vec2<u32>(0x02020202u), vec2<u32>(0u), w.negative).xxyy;
    return Quants(q, w.scale * 0.125, w.scale * -1.125);
}

