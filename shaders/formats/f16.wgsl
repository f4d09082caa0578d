// IEEE 754 binary16: as in the file, a row padded with zeros to whole runs.

const BLOCK: u32 = 16u;
const BODY_WORDS: u32 = 8u;

fn decode16(row: u32, tail: u32, run: u32) -> mat4x4<f32> {
    let a = weight_quad((row >> 2u) + run * 2u);
    let b = weight_quad((row >> 2u) + run * 2u + 1u);
    return mat4x4<f32>(
        vec4<f32>(unpack2x16float(a.x), unpack2x16float(a.y)),
        vec4<f32>(unpack2x16float(a.z), unpack2x16float(a.w)),
        vec4<f32>(unpack2x16float(b.x), unpack2x16float(b.y)),
        vec4<f32>(unpack2x16float(b.z), unpack2x16float(b.w)),
    );
}
