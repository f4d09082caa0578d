// From the joint projection qkv to attention's inputs: per-head RMSNorm of q and k (QK_NORM), rotary position
// embedding (ADJACENT: pairs (2i, 2i+1); else (i, i + pairs)), and the write of k and v into the cache (KV_F16, KV_Q8_0 or f32).
// V_NORM, of QK_NORM: v is normalised too, without weights. Without KV heads there is q alone; without others, k and v, of which
// those are written whose rows lie in the bound shard of the cache.
// TEMPERATURE: q *= 1 + temperature * ln(1 + floor((position + offset) / span)), which sharpens attention over long contexts.
// Grid: one workgroup a head (q, then k, then v heads), tokens along z.
// Bound: launch in decode.
#import lib/state
const SUMS: u32 = 1u;
#import lib/reduce

struct Params {
    heads: u32,
    kv_heads: u32,
    pairs: u32,      // rotated pairs of a head
    eps: f32,
    q_at: u32,       // first of q, k and v in a row of qkv
    k_at: u32,
    v_at: u32,
    stride: u32,     // of a row of qkv
    temperature: f32,
    span: u32,       // of TEMPERATURE: positions
    offset: u32,     // of TEMPERATURE: positions
    rows: u32,       // of the cache: position p lies in row p % rows
    first_row: u32,  // of the shard of the cache that is bound
    shard_rows: u32,
    first_z: u32,     // of a slice of the grid
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> qkv: array<f32>;              // [tokens, stride]
@group(0) @binding(3) var<storage, read_write> q: array<f32>;          // [tokens, heads, HEAD_DIM]
@group(0) @binding(4) var<storage, read_write> k_cache: array<u32>;    // [rows, kv_heads, HEAD_DIM]
@group(0) @binding(5) var<storage, read_write> v_cache: array<u32>;    // [rows, kv_heads, HEAD_DIM]
@group(0) @binding(6) var<storage, read> rope: array<vec2<f32>>;       // [positions, pairs]: cos, sin
#if QK_NORM
@group(0) @binding(7) var<storage, read> q_norm: array<f32>;           // [HEAD_DIM]
@group(0) @binding(8) var<storage, read> k_norm: array<f32>;           // [HEAD_DIM]
#endif

const SHARE: u32 = (HEAD_DIM + WG - 1u) / WG;         // values of an invocation
const TURNS: u32 = (HEAD_DIM / 2u + WG - 1u) / WG;    // and pairs
#if V_NORM
const NORMED_V: bool = true;
#else
const NORMED_V: bool = false;
#endif
var<workgroup> rotated: array<f32, HEAD_DIM>;
#import lib/kv_write
#import lib/rope

// By which value i of a head is multiplied, once normalised.
fn norm_of(is_q: bool, is_v: bool, i: u32) -> f32 {
#if QK_NORM
    return select(select(k_norm[i], q_norm[i], is_q), 1.0, is_v);
#else
    return 1.0;
#endif
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, invocation: Invocation) {
    let tid = invocation.tid;
    if halted() {
        return;
    }
    let head = group.x;
    let token = params.first_z + group.z;
    let position = state.position + token;
    let is_q = head < params.heads;
    let is_v = head >= params.heads + params.kv_heads;
    let cache_row = position % params.rows - params.first_row;
    if !is_q && cache_row >= params.shard_rows {
        return;
    }
    var source = token * params.stride;
    if is_q {
        source += params.q_at + head * HEAD_DIM;
    } else {
        let kv_head = (head - params.heads) % params.kv_heads;
        source += select(params.k_at, params.v_at, is_v) + kv_head * HEAD_DIM;
    }
    // All that memory has to give is asked for before any of it is waited for.
    var own = array<f32, SHARE>();
    var weights = array<f32, SHARE>();
    for (var k = 0u; k < SHARE; k++) {
        let i = min(k * WG + tid, HEAD_DIM - 1u);
        own[k] = qkv[source + i];
        weights[k] = norm_of(is_q, is_v, i);
    }
    var turns = array<vec2<f32>, TURNS>();
    for (var k = 0u; k < TURNS; k++) {
        turns[k] = rope[position * params.pairs + min(k * WG + tid, max(params.pairs, 1u) - 1u)];
    }
    var inverse = 1.0;
#if QK_NORM
    for (var k = 0u; k < SHARE; k++) {
        acc[0] += select(0.0, own[k] * own[k], k * WG + tid < HEAD_DIM);
    }
    reduce(invocation);
    if NORMED_V || !is_v {
        inverse = inverseSqrt(total(0u) / f32(HEAD_DIM) + params.eps);
    }
#endif
    for (var k = 0u; k < SHARE; k++) {
        let i = k * WG + tid;
        if i < HEAD_DIM {
            rotated[i] = own[k] * (inverse * weights[k]);
        }
    }
    workgroupBarrier();
    for (var k = 0u; k < TURNS; k++) {
        let i = k * WG + tid;
        if !is_v && i < params.pairs {
            let at = lanes(i);
            let v = turned(vec2(rotated[at.x], rotated[at.y]), turns[k]);
            rotated[at.x] = v.x;
            rotated[at.y] = v.y;
        }
    }
    workgroupBarrier();
    if is_q {
        var scale = 1.0;
#if TEMPERATURE
        scale += params.temperature * log(f32(1u + (position + params.offset) / params.span));
#endif
        for (var i = tid; i < HEAD_DIM; i += WG) {
            q[(token * params.heads + head) * HEAD_DIM + i] = scale * rotated[i];
        }
        return;
    }
    let kv_head = (head - params.heads) % params.kv_heads;
    let row = cache_row * params.kv_heads + kv_head;
    let rows = params.shard_rows * params.kv_heads;
    for (var i = tid; i < CACHE_WORDS; i += WG) {
        if is_v {
            v_cache[cache_at(row, i, rows)] = cache_word(i);
        } else {
            k_cache[cache_at(row, i, rows)] = cache_word(i);
        }
    }
}
