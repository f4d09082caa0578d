// What the lightning indexer (DeepSeek-V3.2-Exp, section 2.1) compares: its queries, whose first lanes turn where they lie,
// and each token's key, through a LayerNorm and turned alike, into the cache. ADJACENT: pairs (2i, 2i+1); else (i, i + pairs).
// Grid: along x the key, then heads * pairs / WG workgroups; tokens along z.   Bound: launch in decode.
#import lib/state
const SUMS: u32 = 1u;
#import lib/reduce

struct Params {
    heads: u32,
    pairs: u32,
    stride: u32,    // of a row of a
    at: u32,        // of the key in it
    eps: f32,
    first_row: u32,    // of the shard of the keys that is bound
    rows: u32,         // of that shard: those of others are passed over
    first_z: u32,     // of a slice of the grid
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read_write> q: array<f32>;          // [tokens, heads, HEAD_DIM]
@group(0) @binding(3) var<storage, read> a: array<f32>;                // [tokens, stride]
@group(0) @binding(4) var<storage, read> rope: array<vec2<f32>>;       // [positions, pairs]: cos, sin
@group(0) @binding(5) var<storage, read> norm: array<f32>;             // [HEAD_DIM]
@group(0) @binding(6) var<storage, read> norm_bias: array<f32>;        // [HEAD_DIM]
@group(0) @binding(7) var<storage, read_write> keys: array<u32>;       // [positions, HEAD_DIM]

var<workgroup> rotated: array<f32, HEAD_DIM>;
#import lib/kv_write
#import lib/rope

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, invocation: Invocation) {
    let tid = invocation.tid;
    if halted() {
        return;
    }
    let token = params.first_z + group.z;
    let position = state.position + token;
    if group.x > 0u {
        let i = (group.x - 1u) * WG + tid;
        if i < params.heads * params.pairs {
            let pair = i % params.pairs;
            let at = (token * params.heads + i / params.pairs) * HEAD_DIM + lanes(pair);
            let v = turned(vec2(q[at.x], q[at.y]), rope[position * params.pairs + pair]);
            q[at.x] = v.x;
            q[at.y] = v.y;
        }
        return;
    }
    let cache_row = position - params.first_row;
    if cache_row >= params.rows {
        return;
    }
    for (var i = tid; i < HEAD_DIM; i += WG) {
        rotated[i] = a[token * params.stride + params.at + i];
        acc[0] += rotated[i];
    }
    reduce(invocation);
    let mean = total(0u) / f32(HEAD_DIM);
    workgroupBarrier();
    acc[0] = 0.0;
    for (var i = tid; i < HEAD_DIM; i += WG) {
        rotated[i] -= mean;
        acc[0] += rotated[i] * rotated[i];
    }
    reduce(invocation);
    let inverse = inverseSqrt(total(0u) / f32(HEAD_DIM) + params.eps);
    for (var i = tid; i < HEAD_DIM; i += WG) {
        rotated[i] = rotated[i] * inverse * norm[i] + norm_bias[i];
    }
    workgroupBarrier();
    for (var i = tid; i < params.pairs; i += WG) {
        let at = lanes(i);
        let v = turned(vec2(rotated[at.x], rotated[at.y]), rope[position * params.pairs + i]);
        rotated[at.x] = v.x;
        rotated[at.y] = v.y;
    }
    workgroupBarrier();
    for (var i = tid; i < CACHE_WORDS; i += WG) {
        keys[cache_at(cache_row, i, params.rows)] = cache_word(i);
    }
}
