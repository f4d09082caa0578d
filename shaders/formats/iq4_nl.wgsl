// iq4_nl, ggml's block_iq4_nl: 32 values d * codebook value.
// plane 0: 16 bytes, byte i holding the index of values i (low nibble) and i + 16
// plane 1: d f16

const BLOCK: u32 = 32u;
const BODY_WORDS: u32 = 4u;

fn decode16(row: u32, tail: u32, run: u32) -> mat4x4<f32> {
    return iq4_values(iq4_nibbles(row, run), weight_f16(tail, run >> 1u));
}

fn quants16(row: u32, tail: u32, run: u32) -> Quants {
    return Quants(iq4_bytes(iq4_nibbles(row, run)), weight_f16(tail, run >> 1u), 0.0);
}
