// y[t] += sum over ranks, in order, of gates[t, rank] * rows[t, rank], after a grouped down projection.
// UNWEIGHTED: every gate is 1.   STORE: y[t] = that, not y[t] += that.
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
#if !UNWEIGHTED
@group(0) @binding(3) var<storage, read> gates: array<f32>;               // [tokens, ranks]
#endif
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
#if STORE
    var sum = vec4(0.0);
#else
    var sum = y[i];
#endif
    for (var r = 0u; r < params.ranks; r++) {
        let row = token * params.ranks + r;
#if UNWEIGHTED
        sum += rows[row * quads + i % quads];
#else
        sum += gates[row] * rows[row * quads + i % quads];
#endif
    }
    y[i] = sum;
}
