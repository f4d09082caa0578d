// y[t] = x[t] / sqrt(mean(x[t]^2) + eps) * norm, for many tokens; one token's norm is fused into the mat-vec.
// RESIDUAL: y[t] = scale (y[t] + that), for a norm at the end of a branch, which needs all rows of the matrix before it.
// Grid: one workgroup a row, folded.   Bound: bytes of x and y.
#import lib/state
const SUMS: u32 = 1u;
#import lib/reduce

struct Params {
    columns: u32,
    eps: f32,
    x_stride: u32,   // quads from one row of x to the next
    rows: u32,
    scale: f32,      // of RESIDUAL
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(3) var<storage, read> x: array<vec4<f32>>;          // [tokens, 4 * x_stride]
@group(0) @binding(4) var<storage, read_write> y: array<vec4<f32>>;    // [tokens, columns]
@group(0) @binding(5) var<storage, read> norm: array<vec4<f32>>;       // [columns]

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
    let quads = params.columns / 4u;
    let token = group.y * groups.x + group.x;
    if token >= params.rows {
        return;
    }
    let row = token * quads;
    let start = token * params.x_stride;
    for (var i = tid; i < quads; i += WG) {
        acc[0] += dot(x[start + i], x[start + i]);
    }
#if SUBGROUP
    reduce(subgroup, lane, subgroup_count);
#else
    reduce(tid);
#endif
    let inverse = inverseSqrt(total(0u) / f32(params.columns) + params.eps);
    for (var i = tid; i < quads; i += WG) {
#if RESIDUAL
        y[row + i] = params.scale * (y[row + i] + x[start + i] * inverse * norm[i]);
#else
        y[row + i] = x[start + i] * inverse * norm[i];
#endif
    }
}
