// y = cap * tanh(y / cap): logits that stay within a cap.
// Grid: values / WG workgroups, folded.   Bound: bytes of y.
#import lib/state

struct Params {
    count: u32,
    cap: f32,
    first_group: u32,    // of a slice of the grid
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;     // [count]

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) tid: u32) {
    if halted() {
        return;
    }
    let i = (params.first_group + group.y * groups.x + group.x) * WG + tid;
    if i < params.count {
        // Beyond 10, tanh is 1 in f32, and drivers may overflow on the way there.
        y[i] = params.cap * tanh(clamp(y[i] / params.cap, -10.0, 10.0));
    }
}
