// tq2_0, ggml's block_tq2_0: 256 values d (q - 1).
// plane 0: q, 32 bytes for each half of the block, whose pair k is values 32k .. 32k + 31
// plane 1: d f16

const BLOCK: u32 = 256u;
const BODY_WORDS: u32 = 16u;

fn quants16(row: u32, tail: u32, run: u32) -> Quants {
    let q = weight_quad((row >> 2u) + (run >> 3u) * 2u + (run & 1u)) >> vec4<u32>(run & 6u);
    let d = weight_f16(tail, run >> 4u);
    return Quants(q & vec4<u32>(0x03030303u), d, -d);
}
