// iq1_m, ggml's block_iq1_m: 16 sub-blocks of 16 values d (2 scale + 1) (codebook value + delta).
// As in the file, 14 words:
// words 0..7: bytes, the lower 8 bits of the index of 8 values
// words 8..11: nibbles, one for 8 values: 3 upper index bits, sign of delta
// words 12..13: 4 u16: four scales of 3 bits, then a nibble of d f16, the lowest first

const BLOCK: u32 = 256u;
const BODY_WORDS: u32 = 14u;

fn iq1_run(row: u32, tail: u32, run: u32) -> IQ1 {
    let body = row + (run >> 4u) * 14u;
    let j = run & 15u;
    let low = weight_word(body + (j >> 1u)) >> ((j & 1u) * 16u);
    let h = weight_word(body + 8u + (j >> 2u)) >> ((j & 3u) * 8u);
    let high = vec2<u32>(h, h >> 4u);
    let entries = (vec2<u32>(low, low >> 8u) & vec2<u32>(255u)) | ((high & vec2<u32>(7u)) << vec2<u32>(8u));

    let a = weight_word(body + 12u);
    let b = weight_word(body + 13u);
    let d = ((a >> 12u) & 0xfu) | ((a >> 24u) & 0xf0u) | ((b >> 4u) & 0xf00u) | ((b >> 16u) & 0xf000u);
    let scale = (select(a, b, j >= 8u) >> ((j & 4u) * 4u + (j & 3u) * 3u)) & 7u;
    return IQ1(entries, unpack2x16float(d).x * f32(scale * 2u + 1u), (high & vec2<u32>(8u)) != vec2<u32>(0u));
}
