// q6_k, ggml's block_q6_K: 16 sub-blocks of 16 values d scale (q - 32).
// plane 0: 13 quads. Each half of the block is four groups of 32 values:
//     quads 0..7: low nibbles of q, 64 bytes a half: groups 0 and 1 low, groups 2 and 3 high
//     quads 8..11: upper bit pairs of q, 32 bytes a half, a pair a group
//     quad 12: scales i8
// plane 1: d f16

const BLOCK: u32 = 256u;
const BODY_WORDS: u32 = 52u;

fn quants16(row: u32, tail: u32, run: u32) -> Quants {
    let block = run >> 4u;
    let body = row + block * 52u;
    let side = (run >> 3u) & 1u;
    let group = (run >> 1u) & 3u;
    let low = weight_quad((body >> 2u) + side * 4u + (run & 1u) + (group & 1u) * 2u) >> vec4<u32>((group >> 1u) * 4u);
    let high = weight_quad((body >> 2u) + 8u + side * 2u + (run & 1u)) >> vec4<u32>(group * 2u);
    let q = (low & vec4<u32>(0x0f0f0f0fu)) | ((high & vec4<u32>(0x03030303u)) << vec4<u32>(4u));
    let scales = bitcast<i32>(weight_word(body + 48u + ((run >> 2u) & 3u)) << (24u - (run & 3u) * 8u));
    let d = weight_f16(tail, block) * f32(scales >> 24u);
    return Quants(q, d, -32.0 * d);
}
