// y = activation(y) * u (GELU, CLAMPED, LIMITED, CAPPED: lib/activation), u within wider rows.
// Grid: tokens * columns / WG workgroups, folded.   Bound: launch in decode, bytes of y and u in prefill.
#import lib/state
#import lib/activation

struct Params {
    tokens: u32,
    columns: u32,
    stride: u32,         // of a row of u
    at: u32,             // the first column of u
    limit: f32,          // of LIMITED and CAPPED
    first_group: u32,    // of a slice of the grid
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> u: array<f32>;           // [tokens, stride]
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
    y[i] = gated(y[i], u[token * params.stride + params.at + i % params.columns]);
}
