// y[t] *= sigmoid(g[t]): a gate of each column, or one that `share` columns have in common.
// Grid: tokens * columns / WG workgroups, folded.   Bound: launch in decode, bytes of y and g in prefill.
#import lib/state

struct Params {
    tokens: u32,
    columns: u32,
    stride: u32,         // of a row of g
    at: u32,             // the first gate of a row
    share: u32,
    first_group: u32,    // of a slice of the grid
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> g: array<f32>;           // [tokens, stride]
@group(0) @binding(3) var<storage, read_write> y: array<f32>;     // [tokens, columns]

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) tid: u32) {
    if halted() {
        return;
    }
    let i = (params.first_group + group.y * groups.x + group.x) * WG + tid;
    let token = i / params.columns;
    if token >= params.tokens {
        return;
    }
    let gate = g[token * params.stride + params.at + (i % params.columns) / params.share];
    // A driver may assume that no infinity occurs.
    y[i] /= 1.0 + exp(min(-gate, 80.0));
}
