// q2_k, ggml's block_q2_K: 16 sub-blocks of 16 values d scale q - dmin min.
// plane 0: 5 quads:
//     quad 0: 16 bytes, scale (low nibble) and min of a sub-block
//     quads 1..4: q, 32 bytes for each half of the block, whose pair k is values 32k .. 32k + 31
// plane 1: d f16, dmin f16

const BLOCK: u32 = 256u;
const BODY_WORDS: u32 = 20u;

fn quants16(row: u32, tail: u32, run: u32) -> Quants {
    let block = run >> 4u;
    let body = row + block * 20u;
    let q = weight_quad((body >> 2u) + 1u + ((run >> 3u) & 1u) * 2u + (run & 1u)) >> vec4<u32>(run & 6u);
    let scale_min = weight_word(body + ((run >> 2u) & 3u)) >> ((run & 3u) * 8u);
    let s = vec2<f32>((vec2<u32>(scale_min) >> vec2<u32>(0u, 4u)) & vec2<u32>(15u));
    let dm = unpack2x16float(weight_word(tail + block)) * s;
    return Quants(q & vec4<u32>(0x03030303u), dm.x, -dm.y);
}
