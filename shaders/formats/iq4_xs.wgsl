// iq4_xs, ggml's block_iq4_xs: 8 sub-blocks of 32 values d (scale - 32) * codebook value.
// plane 0: 16 bytes a sub-block, byte i holding the index of values i (low nibble) and i + 16
// plane 1: 2 words: d f16, upper bit pairs of the scales; lower nibbles of the scales

const BLOCK: u32 = 256u;
const BODY_WORDS: u32 = 32u;

fn iq4_xs_scale(tail: u32, run: u32) -> f32 {
    let j = (run >> 1u) & 7u;
    let first = weight_word(tail + (run >> 4u) * 2u);
    let low = (weight_word(tail + (run >> 4u) * 2u + 1u) >> (j * 4u)) & 15u;
    let high = (first >> (16u + j * 2u)) & 3u;
    return unpack2x16float(first).x * (f32(low | (high << 4u)) - 32.0);
}

fn decode16(row: u32, tail: u32, run: u32) -> mat4x4<f32> {
    return iq4_values(iq4_nibbles(row, run), iq4_xs_scale(tail, run));
}

fn quants16(row: u32, tail: u32, run: u32) -> Quants {
    return Quants(iq4_bytes(iq4_nibbles(row, run)), iq4_xs_scale(tail, run), 0.0);
}
