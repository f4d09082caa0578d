// y[t] += sum over ranks, in order, of gates[t, rank] * rows[t, rank], after a grouped down projection.
// Grid: tokens * columns / 4 / WG workgroups, folded.   Bound: bytes of rows.
#import lib/state

struct Params {
    tokens: u32,
    columns: u32,
    ranks: u32,
    first_group: u32,    // of a slice of the grid
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> rows: array<vec4<f32>>;          // [tokens, ranks, columns]
@group(0) @binding(3) var<storage, read> gates: array<f32>;               // [tokens, ranks]
@group(0) @binding(4) var<storage, read_write> y: array<vec4<f32>>;       // [tokens, columns]

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) tid: u32) {
    if halted() {
        return;
    }
    let quads = params.columns / 4u;
    let i = (params.first_group + group.y * groups.x + group.x) * WG + tid;
    let token = i / quads;
    if token >= params.tokens {
        return;
    }
    var sum = y[i];
    for (var r = 0u; r < params.ranks; r++) {
        let row = token * params.ranks + r;
        sum += gates[row] * rows[row * quads + i % quads];
    }
    y[i] = sum;
}
