// The keys of the `top_k` best scores of each token, ties to the lower one, listed in rising order; of a token that sees no
// more than so many, all. It sees one for each `ratio` positions up to its own. The lowest score that stays is found digit by
// digit, 8 bits at a time, by counting in workgroup memory; then each invocation lists its stretch of keys behind those of
// the stretches before it. Atomics only count, so the result does not depend on timing.
// Grid: one workgroup a token of the slice.   Bound: six readings of the scores by one workgroup, from cache.
#import lib/state

struct Params {
    first_token: u32,     // of the step: the slice's first
    top_k: u32,
    score_stride: u32,    // from one token's scores to the next's
    ratio: u32,
    first_group: u32, // of a slice of the grid
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> scores: array<f32>;                // [tokens of the slice, score_stride]
@group(0) @binding(3) var<storage, read_write> selected: array<u32>;        // [tokens of the step, top_k]

var<workgroup> histogram: array<atomic<u32>, 256>;
var<workgroup> counts: array<vec2<u32>, WG>;    // of a stretch: above the lowest score, equal to it

// Rises with the score; the two zeros are one.
fn ordered(score: f32) -> u32 {
    let bits = bitcast<u32>(score);
    if bits >= 0x80000000u {
        return select(~bits, 0x80000000u, bits == 0x80000000u);
    }
    return bits | 0x80000000u;
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
    if halted() {
        return;
    }
    let row = params.first_group + group.x;
    let token = params.first_token + row;
    let count = (state.position + token + 1u) / params.ratio;
    let list = token * params.top_k;
    if count <= params.top_k {
        for (var i = tid; i < count; i += WG) {
            selected[list + i] = i;
        }
        return;
    }
    let first = row * params.score_stride;
    var lowest = 0u;    // digits found so far
    var mask = 0u;      // where they are
    var left = params.top_k;
    for (var shift = 32u; shift > 0u; shift -= 8u) {
        for (var d = tid; d < 256u; d += WG) {
            atomicStore(&histogram[d], 0u);
        }
        workgroupBarrier();
        for (var i = tid; i < count; i += WG) {
            let score = ordered(scores[first + i]);
            if (score & mask) == lowest {
                atomicAdd(&histogram[(score >> (shift - 8u)) & 255u], 1u);
            }
        }
        workgroupBarrier();
        var digit = 255u;
        var here = atomicLoad(&histogram[digit]);
        while here < left && digit > 0u {
            left -= here;
            digit--;
            here = atomicLoad(&histogram[digit]);
        }
        lowest |= digit << (shift - 8u);
        mask |= 255u << (shift - 8u);
        workgroupBarrier();
    }

    let stretch = (count + WG - 1u) / WG;
    let begin = min(tid * stretch, count);
    let end = min(begin + stretch, count);
    var mine = vec2(0u);
    for (var i = begin; i < end; i++) {
        let score = ordered(scores[first + i]);
        mine += select(vec2(0u), vec2(1u, 0u), score > lowest) + select(vec2(0u), vec2(0u, 1u), score == lowest);
    }
    counts[tid] = mine;
    workgroupBarrier();
    var before = vec2(0u);
    for (var i = 0u; i < WG; i++) {
        before += select(vec2(0u), counts[i], i < tid);
    }
    for (var i = begin; i < end; i++) {
        let score = ordered(scores[first + i]);
        let equal = score == lowest;
        if score > lowest || (equal && before.y < left) {
            selected[list + before.x + min(before.y, left)] = i;
            before.x += select(1u, 0u, equal);
        }
        before.y += select(0u, 1u, equal);
    }
}
