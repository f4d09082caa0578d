// q8_0, ggml's block_q8_0: 32 values d q.
// plane 0: 32 i8
// plane 1: d f16

const BLOCK: u32 = 32u;
const BODY_WORDS: u32 = 8u;

fn quants16(row: u32, tail: u32, run: u32) -> Quants {
    return Quants(weight_quad((row >> 2u) + run), weight_f16(tail, run >> 1u), 0.0);
}
