// Keys and values of one layer: [positions, kv_heads, HEAD_DIM], f16 or f32, read four at a time.
#if KV_F16
@group(0) @binding(4) var<storage, read> k_cache: array<vec2<u32>>;
@group(0) @binding(5) var<storage, read> v_cache: array<vec2<u32>>;

fn k_quad(i: u32) -> vec4<f32> {
    let w = k_cache[i];
    return vec4(unpack2x16float(w.x), unpack2x16float(w.y));
}

fn v_quad(i: u32) -> vec4<f32> {
    let w = v_cache[i];
    return vec4(unpack2x16float(w.x), unpack2x16float(w.y));
}
#else
@group(0) @binding(4) var<storage, read> k_cache: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> v_cache: array<vec4<f32>>;

fn k_quad(i: u32) -> vec4<f32> {
    return k_cache[i];
}

fn v_quad(i: u32) -> vec4<f32> {
    return v_cache[i];
}
#endif
