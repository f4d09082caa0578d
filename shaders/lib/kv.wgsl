// Keys and values of one layer: rows [rows, kv_heads] of HEAD_DIM, f16, f32 or q8_0 (lib/kv_write), read four lanes at a time.
// LATENT: rows of KEY_DIM, of which the first VALUE_DIM lanes are the value.
// SHARDS_2, SHARDS_4: they lie in so many buffers, `params.shard_rows` in each, the last with those that are left. Rows of a
// tile are mostly of one shard, so invocations rarely part in the switch.
#if !LATENT
const KEY_DIM: u32 = HEAD_DIM;
const VALUE_DIM: u32 = HEAD_DIM;
#endif
const KEY_QUADS: u32 = KEY_DIM / 4u;
#if KV_Q8_0
alias CacheWord = u32;
#else
#if KV_F16
alias CacheWord = vec2<u32>;
#else
alias CacheWord = vec4<f32>;
#endif
#endif
@group(0) @binding(4) var<storage, read> k_cache: array<CacheWord>;
#if !LATENT
@group(0) @binding(5) var<storage, read> v_cache: array<CacheWord>;
#endif

#if SHARDS_2
@group(0) @binding(11) var<storage, read> k_cache_1: array<CacheWord>;
#if !LATENT
@group(0) @binding(12) var<storage, read> v_cache_1: array<CacheWord>;
#endif
#if SHARDS_4
@group(0) @binding(13) var<storage, read> k_cache_2: array<CacheWord>;
@group(0) @binding(14) var<storage, read> k_cache_3: array<CacheWord>;
#if !LATENT
@group(0) @binding(15) var<storage, read> v_cache_2: array<CacheWord>;
@group(0) @binding(16) var<storage, read> v_cache_3: array<CacheWord>;
#endif
#endif

// The shard that a row lies in.
fn shard_of(row: u32) -> u32 {
    var shard = u32(row >= params.shard_rows);
#if SHARDS_4
    shard += u32(row >= 2u * params.shard_rows) + u32(row >= 3u * params.shard_rows);
#endif
    return shard;
}

// A row in its shard.
fn own_row(row: u32) -> u32 {
    return row - shard_of(row) * params.shard_rows;
}

fn k_word(row: u32, i: u32) -> CacheWord {
    switch shard_of(row) {
        case 1u: { return k_cache_1[i]; }
#if SHARDS_4
        case 2u: { return k_cache_2[i]; }
        case 3u: { return k_cache_3[i]; }
#endif
        default: { return k_cache[i]; }
    }
}

#if !LATENT
fn v_word(row: u32, i: u32) -> CacheWord {
    switch shard_of(row) {
        case 1u: { return v_cache_1[i]; }
#if SHARDS_4
        case 2u: { return v_cache_2[i]; }
        case 3u: { return v_cache_3[i]; }
#endif
        default: { return v_cache[i]; }
    }
}
#endif
#else
fn own_row(row: u32) -> u32 {
    return row;
}

fn k_word(row: u32, i: u32) -> CacheWord {
    return k_cache[i];
}

#if !LATENT
fn v_word(row: u32, i: u32) -> CacheWord {
    return v_cache[i];
}
#endif
#endif

#if KV_Q8_0
const SCALE_WORDS: u32 = (KEY_DIM / 32u + 1u) / 2u;

// Of a word of i8, and the word of its block's scale and the next's or the one's before.
fn scaled(word: u32, scales: u32, i: u32) -> vec4<f32> {
    let pair = unpack2x16float(scales);
    return select(pair.x, pair.y, (i / 8u) % 2u == 1u) * vec4<f32>(unpack4xI8(word));
}

// Where the scale of quad i of a row lies: behind the values of all rows of its shard.
fn scale_at(row: u32, i: u32) -> u32 {
    var rows = params.rows * params.kv_heads;
#if SHARDS_2
    rows = min(rows - shard_of(row) * params.shard_rows, params.shard_rows);
#endif
    return rows * KEY_QUADS + own_row(row) * SCALE_WORDS + i / 16u;
}

fn k_quad(row: u32, i: u32) -> vec4<f32> {
    return scaled(k_word(row, own_row(row) * KEY_QUADS + i), k_word(row, scale_at(row, i)), i);
}

#if !LATENT
fn v_quad(row: u32, i: u32) -> vec4<f32> {
    return scaled(v_word(row, own_row(row) * KEY_QUADS + i), v_word(row, scale_at(row, i)), i);
}
#endif
#else
#if KV_F16
fn quad(w: CacheWord) -> vec4<f32> {
    return vec4(unpack2x16float(w.x), unpack2x16float(w.y));
}
#else
fn quad(w: CacheWord) -> vec4<f32> {
    return w;
}
#endif

fn k_quad(row: u32, i: u32) -> vec4<f32> {
    return quad(k_word(row, own_row(row) * KEY_QUADS + i));
}

#if !LATENT
fn v_quad(row: u32, i: u32) -> vec4<f32> {
    return quad(v_word(row, own_row(row) * (VALUE_DIM / 4u) + i));
}
#endif
#endif

#if LATENT
fn v_quad(row: u32, i: u32) -> vec4<f32> {
    return k_quad(row, i);
}
#endif
