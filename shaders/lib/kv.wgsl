// Keys and values of one layer: rows [rows, kv_heads] of HEAD_DIM, f16, f32 or q8_0 (lib/kv_write), read four lanes at a time.
// LATENT: rows of KEY_DIM, of which the first VALUE_DIM lanes are the value.
#if !LATENT
const KEY_DIM: u32 = HEAD_DIM;
const VALUE_DIM: u32 = HEAD_DIM;
#endif
const KEY_QUADS: u32 = KEY_DIM / 4u;
#if KV_Q8_0
@group(0) @binding(4) var<storage, read> k_cache: array<u32>;
#if !LATENT
@group(0) @binding(5) var<storage, read> v_cache: array<u32>;
#endif
const SCALE_WORDS: u32 = (KEY_DIM / 32u + 1u) / 2u;

// Of a word of i8, and the word of its block's scale and the next's or the one's before.
fn scaled(word: u32, scales: u32, i: u32) -> vec4<f32> {
    let pair = unpack2x16float(scales);
    return select(pair.x, pair.y, (i / 8u) % 2u == 1u) * vec4<f32>(unpack4xI8(word));
}

// Where the scale of quad i of a row lies: behind the values of all rows.
fn scale_at(row: u32, i: u32) -> u32 {
    return params.rows * params.kv_heads * KEY_QUADS + row * SCALE_WORDS + i / 16u;
}

fn k_quad(row: u32, i: u32) -> vec4<f32> {
    return scaled(k_cache[row * KEY_QUADS + i], k_cache[scale_at(row, i)], i);
}

#if !LATENT
fn v_quad(row: u32, i: u32) -> vec4<f32> {
    return scaled(v_cache[row * KEY_QUADS + i], v_cache[scale_at(row, i)], i);
}
#endif
#else
#if KV_F16
@group(0) @binding(4) var<storage, read> k_cache: array<vec2<u32>>;
#if !LATENT
@group(0) @binding(5) var<storage, read> v_cache: array<vec2<u32>>;
#endif

fn quad(w: vec2<u32>) -> vec4<f32> {
    return vec4(unpack2x16float(w.x), unpack2x16float(w.y));
}
#else
@group(0) @binding(4) var<storage, read> k_cache: array<vec4<f32>>;
#if !LATENT
@group(0) @binding(5) var<storage, read> v_cache: array<vec4<f32>>;
#endif

fn quad(w: vec4<f32>) -> vec4<f32> {
    return w;
}
#endif

fn k_quad(row: u32, i: u32) -> vec4<f32> {
    return quad(k_cache[row * KEY_QUADS + i]);
}

#if !LATENT
fn v_quad(row: u32, i: u32) -> vec4<f32> {
    return quad(v_cache[row * (VALUE_DIM / 4u) + i]);
}
#endif
#endif

#if LATENT
fn v_quad(row: u32, i: u32) -> vec4<f32> {
    return k_quad(row, i);
}
#endif
