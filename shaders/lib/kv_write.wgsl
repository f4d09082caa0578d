// One row of a cache, HEAD_DIM values in `rotated`, as its words: f16 or f32.
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
