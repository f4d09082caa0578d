// f32: as in the file, a row padded with zeros to whole runs.

const BLOCK: u32 = 16u;
const BODY_WORDS: u32 = 16u;

fn decode16(row: u32, tail: u32, run: u32) -> mat4x4<f32> {
    let i = (row >> 2u) + run * 4u;
    return mat4x4<f32>(
        bitcast<vec4<f32>>(weight_quad(i)),
        bitcast<vec4<f32>>(weight_quad(i + 1u)),
        bitcast<vec4<f32>>(weight_quad(i + 2u)),
        bitcast<vec4<f32>>(weight_quad(i + 3u)),
    );
}
