// The best of a workgroup's WG pairs of a key and a token: the highest key, of ties the lowest token. Two levels, as in lib/scan.
const BEST_GROUP: u32 = min(WG, 16u);
const BEST_GROUPS: u32 = WG / BEST_GROUP;
const WORST: vec2<u32> = vec2(0u, 0xffffffffu);
var<workgroup> compared: array<vec2<u32>, WG>;
var<workgroup> group_bests: array<vec2<u32>, BEST_GROUPS>;

fn is_before(a: vec2<u32>, b: vec2<u32>) -> bool {
    return (a.x > b.x) | ((a.x == b.x) & (a.y < b.y));
}

fn best_of(tid: u32, pair: vec2<u32>) -> vec2<u32> {
    compared[tid] = pair;
    workgroupBarrier();
    let first = tid / BEST_GROUP * BEST_GROUP;
    var best = WORST;
    for (var i = 0u; i < BEST_GROUP; i++) {
        let other = compared[first + i];
        best = select(best, other, is_before(other, best));
    }
    if first == tid {
        group_bests[tid / BEST_GROUP] = best;
    }
    var groups = workgroupUniformLoad(&group_bests);
    best = WORST;
    for (var g = 0u; g < BEST_GROUPS; g++) {
        best = select(best, groups[g], is_before(groups[g], best));
    }
    return best;
}
