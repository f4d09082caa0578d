// What latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1) reads beside its absorbed queries: the rotated part of
// each query behind its first LATENT lanes, and the cache's row of each token: the normed latent, then the rotated key that
// all heads share. Pairs are adjacent.
// Grid: along x the cache's row, then heads * pairs / WG workgroups; tokens along z.
// Bound: launch in decode.
#import lib/state
const SUMS: u32 = 1u;
#import lib/reduce

struct Params {
    heads: u32,
    pairs: u32,          // of the rotated part
    stride: u32,         // of a row of a
    at: u32,             // of the latent in it; the key's rotated part follows
    eps: f32,
    q_stride: u32,       // of a head in q; its last lanes are the rotated part
    first_token: u32,    // of the step: that of row 0 of queries
    first_row: u32,      // of the shard of the cache that is bound
    rows: u32,           // of that shard: those of others are passed over
    first_z: u32,     // of a slice of the grid
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> q: array<f32>;                // [tokens, heads, q_stride]
@group(0) @binding(3) var<storage, read> a: array<f32>;                // [tokens, stride]
@group(0) @binding(4) var<storage, read> rope: array<vec2<f32>>;       // [positions, pairs]: cos, sin
@group(0) @binding(5) var<storage, read> norm: array<f32>;             // [LATENT]
@group(0) @binding(6) var<storage, read_write> queries: array<f32>;    // [tokens from first_token on, heads, HEAD_DIM]
@group(0) @binding(7) var<storage, read_write> k_cache: array<u32>;    // [positions, HEAD_DIM]

const SHARE: u32 = (LATENT + WG - 1u) / WG;    // latents of an invocation
var<workgroup> rotated: array<f32, HEAD_DIM>;
#import lib/kv_write
#import lib/rope

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, invocation: Invocation) {
    let tid = invocation.tid;
    if halted() {
        return;
    }
    let row = params.first_z + group.z;
    let token = params.first_token + row;
    let position = state.position + token;
    if group.x > 0u {
        let i = (group.x - 1u) * WG + tid;
        if i < params.heads * params.pairs {
            let pair = i % params.pairs;
            let head = i / params.pairs;
            let start = (token * params.heads + head + 1u) * params.q_stride - 2u * (params.pairs - pair);
            let v = turned(vec2(q[start], q[start + 1u]), rope[position * params.pairs + pair]);
            let to = (row * params.heads + head) * HEAD_DIM + LATENT + 2u * pair;
            queries[to] = v.x;
            queries[to + 1u] = v.y;
        }
        return;
    }
    let cache_row = position - params.first_row;
    if cache_row >= params.rows {
        return;
    }
    let source = token * params.stride + params.at;
    // All that memory has to give is asked for before any of it is waited for.
    var own = array<f32, SHARE>();
    var weights = array<f32, SHARE>();
    for (var k = 0u; k < SHARE; k++) {
        let i = min(k * WG + tid, LATENT - 1u);
        own[k] = a[source + i];
        weights[k] = norm[i];
    }
    for (var k = 0u; k < SHARE; k++) {
        acc[0] += select(0.0, own[k] * own[k], k * WG + tid < LATENT);
    }
    for (var i = tid; i < params.pairs; i += WG) {
        let v = vec2(a[source + LATENT + 2u * i], a[source + LATENT + 2u * i + 1u]);
        let key = turned(v, rope[position * params.pairs + i]);
        rotated[LATENT + 2u * i] = key.x;
        rotated[LATENT + 2u * i + 1u] = key.y;
    }
    reduce(invocation);
    let inverse = inverseSqrt(total(0u) / f32(LATENT) + params.eps);
    for (var k = 0u; k < SHARE; k++) {
        if k * WG + tid < LATENT {
            rotated[k * WG + tid] = own[k] * (inverse * weights[k]);
        }
    }
    workgroupBarrier();
    for (var i = tid; i < CACHE_WORDS; i += WG) {
        k_cache[cache_at(cache_row, i, params.rows)] = cache_word(i);
    }
}
