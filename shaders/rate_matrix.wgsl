// The device's rate of cooperative matrices: each subgroup `rounds` times S += L R in four independent fragments, all of L
// and R being 1 / 16. `sums` adds up a workgroup's fragments: 4 SIDE * SIDE * rounds * SIDE / 256 a subgroup, of which only
// the device knows how many there are.
// Grid: workgroups of WG, all alike.
#import lib/fragments

struct Params {
    rounds: u32,
    start: u32,     // 0, but the compiler does not know
    factor: u32,    // of rate
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read_write> sums: array<u32>;    // [workgroups]
var<workgroup> inputs: array<f16, SIDE * SIDE>;
var<workgroup> outputs: array<f32, SIDE * SIDE>;

// A subgroup's id is uniform in it, which naga's analysis does not see.
@diagnostic(off, derivative_uniformity)
@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(subgroup_id) subgroup: u32, @builtin(num_subgroups) subgroups: u32,
        @builtin(local_invocation_index) tid: u32) {
    for (var i = tid; i < SIDE * SIDE; i += WG) {
        inputs[i] = f16(params.start) + 0.0625;
    }
    workgroupBarrier();
    let left = coopLoadT<Left>(&inputs[0], SIDE);
    let right = coopLoadT<Right>(&inputs[0], SIDE);
    var a: Sums;
    var b: Sums;
    var c: Sums;
    var d: Sums;
    for (var i = 0u; i < params.rounds; i++) {
        a = coopMultiplyAdd(left, right, a);
        b = coopMultiplyAdd(left, right, b);
        c = coopMultiplyAdd(left, right, c);
        d = coopMultiplyAdd(left, right, d);
    }
    let sum = (a + b) + (c + d);
    var total = 0.0;
    for (var s = 0u; s < subgroups; s++) {
        if s == subgroup {
            let stride = SIDE;
            coopStoreT(sum, &outputs[0], stride);
        }
        workgroupBarrier();
        if tid == 0u {
            for (var i = 0u; i < SIDE * SIDE; i++) {
                total += outputs[i];
            }
        }
        workgroupBarrier();
    }
    if tid == 0u {
        sums[group.y * groups.x + group.x] = u32(round(total));
    }
}
