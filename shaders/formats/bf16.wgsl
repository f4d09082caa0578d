// bfloat16, the upper half of an f32: as in the file, a row padded with zeros to whole runs.

const BLOCK: u32 = 16u;
const BODY_WORDS: u32 = 8u;

fn unpack4xbf16(pairs: vec2<u32>) -> vec4<f32> {
    return bitcast<vec4<f32>>(vec4<u32>(pairs.x << 16u, pairs.x & 0xffff0000u, pairs.y << 16u, pairs.y & 0xffff0000u));
}

fn decode16(row: u32, tail: u32, run: u32) -> mat4x4<f32> {
    let a = weight_quad((row >> 2u) + run * 2u);
    let b = weight_quad((row >> 2u) + run * 2u + 1u);
    return mat4x4<f32>(unpack4xbf16(a.xy), unpack4xbf16(a.zw), unpack4xbf16(b.xy), unpack4xbf16(b.zw));
}
