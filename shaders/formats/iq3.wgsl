// An entry is 4 magnitudes, a byte each.
@group(0) @binding(9) var<storage, read> codebook: array<u32>; // [256] or [512]

