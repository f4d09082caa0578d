// The lightning indexer's scores of the keys up to each token's own, one for each `ratio` positions: sum over heads of weight * relu(q . k). Only tokens
// that see more than `top_k` have any. An invocation takes a key, GROUP heads at a time: their queries lie in workgroup
// memory, the key is read again from cache for each group.
// Grid: along x as many workgroups as share the keys of a token, a tile of WG after another; tokens of the slice along z.
// Bound: operations in prefill; in decode the bytes of the keys.
// Lost, by count of registers: all heads at a time, 64 sums an invocation.
#import lib/state

struct Params {
    heads: u32,
    stride: u32,          // of a row of a
    at: u32,              // of the heads' weights in it
    first_token: u32,     // of the step: the slice's first
    top_k: u32,
    score_stride: u32,    // from one token's scores to the next's
    ratio: u32,
    first_z: u32,     // of a slice of the grid
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> q: array<vec4<f32>>;             // [tokens, heads, HEAD_DIM]
@group(0) @binding(3) var<storage, read> a: array<f32>;                   // [tokens, stride]
#if KV_F16
@group(0) @binding(4) var<storage, read> keys: array<vec2<u32>>;          // [positions, HEAD_DIM]
#else
@group(0) @binding(4) var<storage, read> keys: array<vec4<f32>>;          // [positions, HEAD_DIM]
#endif
@group(0) @binding(5) var<storage, read_write> scores: array<f32>;        // [tokens of the slice, score_stride]

const QUADS: u32 = HEAD_DIM / 4u;
var<workgroup> queries: array<vec4<f32>, GROUP * QUADS>;
var<workgroup> weights: array<f32, GROUP>;

fn key_quad(i: u32) -> vec4<f32> {
#if KV_F16
    return vec4(unpack2x16float(keys[i].x), unpack2x16float(keys[i].y));
#else
    return keys[i];
#endif
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) tid: u32) {
    if halted() {
        return;
    }
    let row = params.first_z + group.z;
    let token = params.first_token + row;
    let count = (state.position + token + 1u) / params.ratio;
    if count <= params.top_k {
        return;
    }
    for (var tile = group.x * WG; tile < count; tile += groups.x * WG) {
        let key = tile + tid;
        var score = 0.0;
        for (var head = 0u; head < params.heads; head += GROUP) {
            workgroupBarrier();
            for (var i = tid; i < GROUP * QUADS; i += WG) {
                queries[i] = q[(token * params.heads + head) * QUADS + i];
            }
            for (var i = tid; i < GROUP; i += WG) {
                weights[i] = a[token * params.stride + params.at + head + i];
            }
            workgroupBarrier();
            if key < count {
                var dots = array<f32, GROUP>();
                for (var i = 0u; i < QUADS; i++) {
                    let k = key_quad(key * QUADS + i);
                    for (var h = 0u; h < GROUP; h++) {
                        dots[h] += dot(queries[h * QUADS + i], k);
                    }
                }
                for (var h = 0u; h < GROUP; h++) {
                    score += weights[h] * max(dots[h], 0.0);
                }
            }
        }
        if key < count {
            scores[row * params.score_stride + key] = score;
        }
    }
}
