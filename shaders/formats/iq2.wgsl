// An entry is 8 magnitudes among 8, 25, 43, which differ in bits 0, 1, 4 and 5. A nibble holds these bits: values 0..3
// in the low nibbles of the bytes, 4..7 in the high ones.
@group(0) @binding(9) var<storage, read> codebook: array<u32>; // [256], [512] or [1024]

// The magnitudes of two entries, a byte each.
fn iq2_magnitudes(a: u32, b: u32) -> vec4<u32> {
    let entries = vec2<u32>(codebook[a], codebook[b]);
    let n = vec4<u32>(entries, entries >> vec2<u32>(4u)).xzyw;
    return ((n & vec4<u32>(0x0c0c0c0cu)) << vec4<u32>(2u)) | (n & vec4<u32>(0x03030303u)) | vec4<u32>(0x08080808u);
}

