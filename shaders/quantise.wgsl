// Rounds activations to i8 per block of 32 (lib/quantise), where no earlier kernel could as it wrote them.
// Grid: blocks / WG workgroups, folded.   Bound: launch in decode; bytes of x.
#import lib/state
#import lib/quantise

struct Params {
    blocks: u32,
    first: u32,          // quad of x
    first_group: u32,    // of a slice of the grid
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(3) var<storage, read> x: array<vec4<f32>>;          // [rows, columns]
@group(0) @binding(4) var<storage, read_write> y: array<vec4<u32>>;    // [rows, columns / 32, 3]

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) tid: u32) {
    if halted() {
        return;
    }
    let block = (params.first_group + group.y * groups.x + group.x) * WG + tid;
    if block >= params.blocks {
        return;
    }
    var v: array<vec4<f32>, 8>;
    for (var i = 0u; i < 8u; i++) {
        v[i] = x[params.first + 8u * block + i];
    }
    let rounded = quantise32(v);
    for (var i = 0u; i < 3u; i++) {
        y[3u * block + i] = rounded[i];
    }
}
