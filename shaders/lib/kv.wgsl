// Keys and values of one layer: rows [positions, kv_heads] of HEAD_DIM, f16 or f32, read four lanes at a time.
// LATENT: rows of KEY_DIM, of which the first VALUE_DIM lanes are the value.
#if !LATENT
const KEY_DIM: u32 = HEAD_DIM;
const VALUE_DIM: u32 = HEAD_DIM;
#endif
const KEY_QUADS: u32 = KEY_DIM / 4u;
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

#if LATENT
fn v_quad(row: u32, i: u32) -> vec4<f32> {
    return k_quad(row, i);
}
#else
fn v_quad(row: u32, i: u32) -> vec4<f32> {
    return quad(v_cache[row * (VALUE_DIM / 4u) + i]);
}
#endif
