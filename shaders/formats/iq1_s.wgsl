// iq1_s, ggml's block_iq1_s: 8 sub-blocks of 32 values d (2 scale + 1) (codebook value + delta).
// plane 0: 32 bytes, the lower 8 bits of the index of 8 values;
//     8 u16, one a sub-block: 4 x 3 upper index bits, 3 bits scale, sign of delta
// plane 1: d f16

const BLOCK: u32 = 256u;
const BODY_WORDS: u32 = 12u;

fn iq1_run(row: u32, tail: u32, run: u32) -> IQ1 {
    let block = run >> 4u;
    let body = row + block * 12u;
    let low = weight_word(body + ((run >> 1u) & 7u)) >> ((run & 1u) * 16u);
    let h = weight_word(body + 8u + ((run >> 2u) & 3u)) >> ((run & 2u) * 8u);
    let high = vec2<u32>(h >> ((run & 1u) * 6u)) >> vec2<u32>(0u, 3u);
    let entries = (vec2<u32>(low, low >> 8u) & vec2<u32>(255u)) | ((high & vec2<u32>(7u)) << vec2<u32>(8u));
    let d = weight_f16(tail, block) * f32(((h >> 11u) & 14u) + 1u);
    return IQ1(entries, d, vec2<bool>((h & 0x8000u) != 0u));
}
