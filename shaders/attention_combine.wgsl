// Joins the splits of decode attention: out = sum_s e^(max_s - max) sum_s / sum_s e^(max_s - max) total_s.
// Grid: one workgroup a query head.   Bound: launch.
#import lib/state

struct Params {
    heads: u32,
    splits: u32,
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> sums: array<vec4<f32>>;          // [splits, heads, HEAD_DIM]
@group(0) @binding(3) var<storage, read> stats: array<vec2<f32>>;         // [splits, heads]: maximum, sum
@group(0) @binding(4) var<storage, read_write> out: array<vec4<f32>>;     // [heads, HEAD_DIM]

const QUADS: u32 = HEAD_DIM / 4u;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
    if halted() {
        return;
    }
    let head = group.x;
    var high = stats[head].x;
    for (var s = 1u; s < params.splits; s++) {
        high = max(high, stats[s * params.heads + head].x);
    }
    for (var i = tid; i < QUADS; i += WG) {
        var sum = vec4(0.0);
        var total = 0.0;
        for (var s = 0u; s < params.splits; s++) {
            let slot = s * params.heads + head;
            let scale = exp(stats[slot].x - high);
            total += scale * stats[slot].y;
            sum += scale * sums[slot * QUADS + i];
        }
        out[head * QUADS + i] = sum / total;
    }
}
