// A matrix or expert stack in its device layout (formats/mod.rs): rows start at 16-byte quads.
@group(0) @binding(2) var<storage, read> weights: array<vec4<u32>>;

fn weight_quad(i: u32) -> vec4<u32> {
    return weights[i];
}

fn weight_word(i: u32) -> u32 {
    return weights[i >> 2u][i & 3u];
}

// The dot product of two runs of 16.
fn dot16(a: mat4x4<f32>, b: mat4x4<f32>) -> f32 {
    return (dot(a[0], b[0]) + dot(a[1], b[1])) + (dot(a[2], b[2]) + dot(a[3], b[3]));
}
