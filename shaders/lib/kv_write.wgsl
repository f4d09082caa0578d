// One row of a cache, HEAD_DIM values in `rotated`, as its words: f16, f32, or q8_0: i8 in blocks of 32, whose f16 scales lie
// two a word behind the values of all rows.
#if KV_Q8_0
#import lib/round8
const VALUE_WORDS: u32 = HEAD_DIM / 4u;
const BLOCKS: u32 = HEAD_DIM / 32u;
const CACHE_WORDS: u32 = VALUE_WORDS + (BLOCKS + 1u) / 2u;

fn block_high(block: u32) -> f32 {
    var high = 0.0;
    for (var i = 0u; i < 32u; i++) {
        high = max(high, abs(rotated[32u * block + i]));
    }
    return high;
}

fn cache_word(i: u32) -> u32 {
    if i < VALUE_WORDS {
        let v = vec4(rotated[4u * i], rotated[4u * i + 1u], rotated[4u * i + 2u], rotated[4u * i + 3u]);
        return round8(v, inverse127(block_high(i / 8u)));
    }
    let block = 2u * (i - VALUE_WORDS);
    var highs = vec2(block_high(block), 0.0);
    if block + 1u < BLOCKS {
        highs.y = block_high(block + 1u);
    }
    return pack2x16float(min(highs * ONE_127TH, vec2(65504.0)));
}

// Where word i of a row lies in a cache of `rows` rows.
fn cache_at(row: u32, i: u32, rows: u32) -> u32 {
    let scale = rows * VALUE_WORDS + row * (CACHE_WORDS - VALUE_WORDS) + i - VALUE_WORDS;
    return select(scale, row * VALUE_WORDS + i, i < VALUE_WORDS);
}
#else
#if KV_F16
const CACHE_WORDS: u32 = HEAD_DIM / 2u;
fn cache_word(i: u32) -> u32 {
    return pack2x16float(vec2(rotated[2u * i], rotated[2u * i + 1u]));
}
#else
const CACHE_WORDS: u32 = HEAD_DIM;
fn cache_word(i: u32) -> u32 {
    return bitcast<u32>(rotated[i]);
}
#endif

fn cache_at(row: u32, i: u32, rows: u32) -> u32 {
    return row * CACHE_WORDS + i;
}
#endif
