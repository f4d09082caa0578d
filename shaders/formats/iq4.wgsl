// Entry b is the two values of the nibbles of byte b, low one first, as f16; entry 256 + b the same as i8.
@group(0) @binding(9) var<storage, read> codebook: array<u32>; // [512]

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

// The four values as i8.
fn iq4_bytes4(nibbles: u32) -> u32 {
    let pairs = nibbles | (nibbles >> 4u);
    return codebook[256u + (pairs & 255u)] | (codebook[256u + ((pairs >> 16u) & 255u)] << 16u);
}

fn iq4_bytes(nibbles: vec4<u32>) -> vec4<u32> {
    return vec4<u32>(iq4_bytes4(nibbles.x), iq4_bytes4(nibbles.y), iq4_bytes4(nibbles.z), iq4_bytes4(nibbles.w));
}

// Sixteen nibbles of blocks of 16 bytes, byte i holding those of values i (low) and i + 16.
fn iq4_nibbles(row: u32, run: u32) -> vec4<u32> {
    return (weight_quad((row >> 2u) + (run >> 1u)) >> vec4<u32>((run & 1u) * 4u)) & vec4<u32>(0x0f0f0f0fu);
}

