// y += sum over ranks of gates[rank] * (W[routed[rank]] h[rank]): the experts' down projection for one token, its weighted
// combine and the residual in one. Ranks are summed in order, so the result does not depend on where experts lie.
// Grid: rows / ROWS workgroups, folded.
// Bound: bytes of the routed experts. Ranks and runs are one loop, so that short rows still fill the workgroup.
#import lib/state
#import lib/weights
#import format
const SUMS: u32 = ROWS;
#import lib/reduce

struct Params {
    rows: u32,
    columns: u32,
    row_words: u32,
    tail_words: u32,     // from a row's start to its tails
    ranks: u32,          // experts used
    expert_words: u32,
    shard: u32,          // which shard of the stack is bound
    first_group: u32,    // of a slice of the grid
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(3) var<storage, read> h: array<vec4<f32>>;         // [ranks, columns]
@group(0) @binding(4) var<storage, read_write> y: array<f32>;         // [rows]
@group(0) @binding(5) var<storage, read> routed: array<u32>;          // [ranks]
@group(0) @binding(6) var<storage, read> gates: array<f32>;           // [ranks]
@group(0) @binding(7) var<storage, read> experts: array<vec2<u32>>;   // [experts]: shard, slot
#if BIAS
@group(0) @binding(8) var<storage, read> bias: array<f32>;            // [experts, rows]
#endif

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
#if SUBGROUP
        @builtin(subgroup_id) subgroup: u32, @builtin(subgroup_invocation_id) lane: u32,
        @builtin(num_subgroups) subgroup_count: u32,
#endif
        @builtin(local_invocation_index) tid: u32) {
    if halted() {
        return;
    }
    let first = (params.first_group + group.y * groups.x + group.x) * ROWS;
    if first >= params.rows {
        return;
    }
    let runs = (params.columns + 15u) / 16u;
    let quads = params.columns / 4u;
    for (var item = tid; item < params.ranks * runs; item += WG) {
        let rank = item / runs;
        let run = item - rank * runs;
        let place = experts[routed[rank]];
        if place.x != params.shard {
            continue;
        }
        let i = rank * quads + 4u * run;
        let left = quads - 4u * run;
        var v = mat4x4<f32>();
        v[0] = h[i];
        if left > 1u { v[1] = h[i + 1u]; }
        if left > 2u { v[2] = h[i + 2u]; }
        if left > 3u { v[3] = h[i + 3u]; }
        v *= gates[rank];
        let base = place.y * params.expert_words;
        for (var r = 0u; r < ROWS; r++) {
            let row = base + min(first + r, params.rows - 1u) * params.row_words;
            acc[r] += dot16(decode16(row, row + params.tail_words, run), v);
        }
    }
#if SUBGROUP
    reduce(subgroup, lane, subgroup_count);
#else
    reduce(tid);
#endif
    if tid < ROWS && first + tid < params.rows {
        var value = total(tid);
#if BIAS
        for (var rank = 0u; rank < params.ranks; rank++) {
            let expert = routed[rank];
            if experts[expert].x == params.shard {
                value += gates[rank] * bias[expert * params.rows + first + tid];
            }
        }
#endif
        y[first + tid] += value;
    }
}
