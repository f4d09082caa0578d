// Sums over a workgroup's WG invocations of a `Summed`, a type that the kernel names. Call `sum_up` from all invocations; then any
// may ask for the sum `before` it, and all together for the `total`. Two levels of at most 16 values, so that reads of workgroup
// memory do not wait for each other; in a fixed order.
const SUM_GROUP: u32 = min(WG, 16u);
const SUM_GROUPS: u32 = WG / SUM_GROUP;
var<workgroup> summed: array<Summed, WG>;
var<workgroup> group_sums: array<Summed, SUM_GROUPS>;
var<private> before_in_group: Summed;

fn sum_up(tid: u32, value: Summed) {
    summed[tid] = value;
    workgroupBarrier();
    let first = tid / SUM_GROUP * SUM_GROUP;
    var sum = Summed();
    for (var i = 0u; i < SUM_GROUP; i++) {
        before_in_group = select(before_in_group, sum, first + i == tid);
        sum += summed[first + i];
    }
    if first == tid {
        group_sums[tid / SUM_GROUP] = sum;
    }
    workgroupBarrier();
}

fn before(tid: u32) -> Summed {
    var sum = Summed();
    for (var g = 0u; g < SUM_GROUPS; g++) {
        sum += select(Summed(), group_sums[g], g < tid / SUM_GROUP);
    }
    return sum + before_in_group;
}

// Uniform.
fn total() -> Summed {
    var groups = workgroupUniformLoad(&group_sums);
    var sum = Summed();
    for (var g = 0u; g < SUM_GROUPS; g++) {
        sum += groups[g];
    }
    return sum;
}
