// What DeepSeek-V4's attention reads: queries, each head normed without weights and its last lanes turned, where they lie;
// and each token's row of the window, the key and value of all heads, normed and turned alike, into the cache, in whose
// first `rows` rows the last positions take turns. INDEXER: the lightning indexer's queries turn where they lie, too.
// Grid: along x the row, the heads, then index_heads * pairs / WG workgroups; tokens along z.   Bound: launch in decode.
#import lib/state
const SUMS: u32 = 1u;
#import lib/reduce

struct Params {
    heads: u32,
    pairs: u32,          // that turn, of all heads alike
    stride: u32,         // of a row of a
    at: u32,             // of the token's row in it
    eps: f32,
    rows: u32,           // of the cache that hold the window
    index_heads: u32,
    index_dim: u32,
    first_z: u32,        // of a slice of the grid
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read_write> q: array<f32>;          // [tokens, heads, HEAD_DIM]
@group(0) @binding(3) var<storage, read> a: array<f32>;                // [tokens, stride]
@group(0) @binding(4) var<storage, read> rope: array<vec2<f32>>;       // [positions, pairs]: cos, sin
@group(0) @binding(5) var<storage, read> norm: array<f32>;             // [HEAD_DIM]
@group(0) @binding(6) var<storage, read_write> k_cache: array<u32>;    // [rows and more, HEAD_DIM]
#if INDEXER
@group(0) @binding(7) var<storage, read_write> index_q: array<f32>;    // [tokens, index_heads, index_dim]
#endif

const SHARE: u32 = (HEAD_DIM + WG - 1u) / WG;    // values of an invocation
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
#if INDEXER
    if group.x > params.heads {
        let i = (group.x - params.heads - 1u) * WG + tid;
        if i < params.index_heads * params.pairs {
            let pair = i % params.pairs;
            let head = token * params.index_heads + i / params.pairs;
            let at = (head + 1u) * params.index_dim - 2u * (params.pairs - pair);
            let v = turned(vec2(index_q[at], index_q[at + 1u]), rope[position * params.pairs + pair]);
            index_q[at] = v.x;
            index_q[at + 1u] = v.y;
        }
        return;
    }
#endif
    let is_q = group.x > 0u;
    let own = (token * params.heads + group.x - 1u) * HEAD_DIM;    // of a query
    // All that memory has to give is asked for before any of it is waited for.
    var values = array<f32, SHARE>();
    var weights = array<f32, SHARE>();
    for (var k = 0u; k < SHARE; k++) {
        let i = min(k * WG + tid, HEAD_DIM - 1u);
        if is_q {
            values[k] = q[own + i];
        } else {
            values[k] = a[token * params.stride + params.at + i];
        }
        weights[k] = select(norm[i], 1.0, is_q);
    }
    for (var k = 0u; k < SHARE; k++) {
        acc[0] += select(0.0, values[k] * values[k], k * WG + tid < HEAD_DIM);
    }
    reduce(invocation);
    let inverse = inverseSqrt(total(0u) / f32(HEAD_DIM) + params.eps);
    for (var k = 0u; k < SHARE; k++) {
        if k * WG + tid < HEAD_DIM {
            rotated[k * WG + tid] = values[k] * (inverse * weights[k]);
        }
    }
    workgroupBarrier();
    for (var i = tid; i < params.pairs; i += WG) {
        let at = HEAD_DIM - 2u * (params.pairs - i);
        let v = turned(vec2(rotated[at], rotated[at + 1u]), rope[position * params.pairs + i]);
        rotated[at] = v.x;
        rotated[at + 1u] = v.y;
    }
    workgroupBarrier();
    if is_q {
        for (var i = tid; i < HEAD_DIM; i += WG) {
            q[own + i] = rotated[i];
        }
        return;
    }
    for (var i = tid; i < CACHE_WORDS; i += WG) {
        k_cache[position % params.rows * CACHE_WORDS + i] = cache_word(i);
    }
}
