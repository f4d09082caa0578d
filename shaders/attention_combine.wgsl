// Joins the splits of decode attention: out = sum_s e^(max_s - max) sum_s / sum_s e^(max_s - max) total_s.
// Grid: one workgroup a query head.   Bound: launch, and two reads of memory one after the other.
#import lib/state

struct Params {
    heads: u32,
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> sums: array<vec4<f32>>;          // [SPLITS, heads, HEAD_DIM]
@group(0) @binding(3) var<storage, read> stats: array<vec2<f32>>;         // [SPLITS, heads]: maximum, sum
@group(0) @binding(4) var<storage, read_write> out: array<vec4<f32>>;     // [heads, HEAD_DIM]

const QUADS: u32 = HEAD_DIM / 4u;

var<workgroup> split_stats: array<vec2<f32>, SPLITS>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
    if halted() {
        return;
    }
    let head = group.x;
    for (var s = tid; s < SPLITS; s += WG) {
        split_stats[s] = stats[s * params.heads + head];
    }
    workgroupBarrier();
    var high = split_stats[0].x;
    for (var s = 1u; s < SPLITS; s++) {
        high = max(high, split_stats[s].x);
    }
    for (var i = tid; i < QUADS; i += WG) {
        var sum = vec4(0.0);
        var total = 0.0;
        for (var s = 0u; s < SPLITS; s++) {
            let scale = exp(split_stats[s].x - high);
            total += scale * split_stats[s].y;
            sum += scale * sums[(s * params.heads + head) * QUADS + i];
        }
        out[head * QUADS + i] = sum / total;
    }
}
