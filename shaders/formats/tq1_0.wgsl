// tq1_0, ggml's block_tq1_0: 256 values d (q - 1), q in 0..2 being digits in base 3 of byte / 256.
// plane 0: words 0..7: five digits a byte, digit k of the 32 bytes being values 32k .. 32k + 31
//     words 8..11: five digits a byte, digit k of the 16 bytes being values 160 + 16k .. 175 + 16k
//     word 12: four digits a byte, digit k of the 4 bytes being values 240 + 4k .. 243 + 4k
// plane 1: d f16

const BLOCK: u32 = 256u;
const BODY_WORDS: u32 = 13u;

// Digit k of each byte, where power = 3^k shifts it behind the point and 3 before it. Two bytes at once, 16 bits each.
fn base3_digit(bytes: vec4<u32>, power: vec4<u32>) -> vec4<u32> {
    let even = ((((bytes & vec4<u32>(0x00ff00ffu)) * power) & vec4<u32>(0x00ff00ffu)) * 3u) >> vec4<u32>(8u);
    let odd = ((((bytes >> vec4<u32>(8u)) & vec4<u32>(0x00ff00ffu)) * power) & vec4<u32>(0x00ff00ffu)) * 3u;
    return (even & vec4<u32>(0x00030003u)) | (odd & vec4<u32>(0x03000300u));
}

fn quants16(row: u32, tail: u32, run: u32) -> Quants {
    let block = run >> 4u;
    let j = run & 15u;
    // Runs 0..9 read 4 words of the first 8, runs 10..14 the next 4, run 15 the last, four times.
    let last = j == 15u;
    let at = row + block * 13u + select(select(8u, (j & 1u) * 4u, j < 10u), 12u, last);
    let step = select(1u, 0u, last);
    let bytes = vec4<u32>(
        weight_word(at),
        weight_word(at + step),
        weight_word(at + 2u * step),
        weight_word(at + 3u * step),
    );
    // 3^k: 1, 3, 9, 27 are the bytes of one word, 81 has none.
    let k = select(j - 10u, j >> 1u, j < 10u);
    let same = vec4<u32>(select((0x1b090301u >> (k * 8u)) & 255u, 81u, k == 4u));
    let power = select(same, vec4<u32>(1u, 3u, 9u, 27u), last);
    let d = weight_f16(tail, block);
    return Quants(base3_digit(bytes, power), d, -d);
}
