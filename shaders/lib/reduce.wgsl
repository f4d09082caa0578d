// Sums over a workgroup of WG invocations (a power of two) of SUMS values each, in a fixed order.
// Fill `acc`, call `reduce` from all invocations, then any of them may ask for `total(i)`.
struct Invocation {
    @builtin(local_invocation_index) tid: u32,
#if SUBGROUP
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_invocation_id) lane: u32,
    @builtin(num_subgroups) subgroups: u32,
#endif
}
var<private> acc: array<f32, SUMS>;

#if SUBGROUP
// The smallest subgroup there is has 4 invocations.
var<workgroup> partial: array<f32, SUMS * (WG + 3u) / 4u>;
var<private> subgroups: u32;

fn reduce(invocation: Invocation) {
    subgroups = invocation.subgroups;
    for (var i = 0u; i < SUMS; i++) {
        let sum = subgroupAdd(acc[i]);
        if invocation.lane == 0u {
            partial[invocation.subgroup * SUMS + i] = sum;
        }
    }
    workgroupBarrier();
}

fn total(i: u32) -> f32 {
    var sum = partial[i];
    for (var s = 1u; s < subgroups; s++) {
        sum += partial[s * SUMS + i];
    }
    return sum;
}
#else
var<workgroup> partial: array<f32, SUMS * WG>;

fn reduce(invocation: Invocation) {
    let tid = invocation.tid;
    for (var i = 0u; i < SUMS; i++) {
        partial[tid * SUMS + i] = acc[i];
    }
    for (var stride = WG / 2u; stride > 0u; stride /= 2u) {
        workgroupBarrier();
        if tid < stride {
            for (var i = 0u; i < SUMS; i++) {
                partial[tid * SUMS + i] += partial[(tid + stride) * SUMS + i];
            }
        }
    }
    workgroupBarrier();
}

fn total(i: u32) -> f32 {
    return partial[i];
}
#endif
