// Entry b is the two values of the nibbles of byte b, low one first, as f16.
@group(0) @binding(9) var<storage, read> codebook: array<u32>; // [256]

// scale * value, for four nibbles, each alone in its byte.
fn iq4_values4(nibbles: u32, scale: f32) -> vec4<f32> {
    let pairs = nibbles | (nibbles >> 4u);
    let a = unpack2x16float(codebook[pairs & 255u]);
    let b = unpack2x16float(codebook[(pairs >> 16u) & 255u]);
    return vec4<f32>(a, b) * scale;
}

fn iq4_values(nibbles: vec4<u32>, scale: f32) -> mat4x4<f32> {
    return mat4x4<f32>(
        iq4_values4(nibbles.x, scale),
        iq4_values4(nibbles.y, scale),
        iq4_values4(nibbles.z, scale),
        iq4_values4(nibbles.w, scale),
    );
}

