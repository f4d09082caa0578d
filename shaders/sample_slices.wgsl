// First half of sampling: a slice of SLICE logits a workgroup. Greedy: its best. Else the repetition penalty, then the
// slice sorted (highest first, ties to the lower index) with running sums of e^(l - best), at temperature 1 and at the
// temperature asked for: what `sample` needs to find any count or mass by binary search.
// Grid: vocabulary / SLICE.   Bound: launch and 55 barriers of the bitonic sort.
#import lib/state
#import lib/keys

struct Params {
    vocabulary: u32,
    tokens: u32,      // of this step; the history ends with them
    base: u32,        // first logit of the row that is sampled
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> logits: array<f32>;                // [rows, vocabulary]
@group(0) @binding(3) var<storage, read> tokens: array<u32>;                // [context + 1]
@group(0) @binding(4) var<storage, read_write> sorted: array<vec2<u32>>;    // [slices, SLICE]: key, token
@group(0) @binding(5) var<storage, read_write> mass: array<vec2<f32>>;      // [slices, SLICE]: running sums

const SLICE: u32 = 1024u;
var<workgroup> pairs: array<vec2<u32>, SLICE>;
var<workgroup> sums: array<vec2<f32>, WG>;

fn before(a: vec2<u32>, b: vec2<u32>) -> bool {
    return a.x > b.x || (a.x == b.x && a.y < b.y);
}

fn penalised(token: u32) -> f32 {
    let value = logits[params.base + token];
    let end = state.position + params.tokens;
    for (var i = end - min(state.repeat_last, end); i < end; i++) {
        if tokens[i] == token {
            return select(value * state.repeat_penalty, value / state.repeat_penalty, value > 0.0);
        }
    }
    return value;
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
    if halted() {
        return;
    }
    let start = group.x * SLICE;
    let greedy = state.temperature == 0.0;
    var best = vec2(0u, 0xffffffffu);
    for (var i = tid; i < SLICE; i += WG) {
        var pair = vec2(0u, start + i);
        if pair.y < params.vocabulary {
            pair.x = key_of(penalised(pair.y));
        }
        if before(pair, best) {
            best = pair;
        }
        pairs[i] = pair;
    }
    workgroupBarrier();
    if greedy {
        pairs[tid] = best;
        workgroupBarrier();
        if tid == 0u {
            for (var i = 1u; i < WG; i++) {
                if before(pairs[i], best) {
                    best = pairs[i];
                }
            }
            sorted[start] = best;
        }
        return;
    }
    for (var size = 2u; size <= SLICE; size *= 2u) {
        for (var stride = size / 2u; stride > 0u; stride /= 2u) {
            for (var i = tid; i < SLICE / 2u; i += WG) {
                let low = 2u * stride * (i / stride) + i % stride;
                let a = pairs[low];
                let b = pairs[low + stride];
                if before(b, a) == ((low & size) == 0u) {
                    pairs[low] = b;
                    pairs[low + stride] = a;
                }
            }
            workgroupBarrier();
        }
    }
    // Running sums: each invocation its own stretch, then the sum of all stretches before it.
    let high = value_of(pairs[0].x);
    const STRETCH: u32 = SLICE / WG;
    var sum = vec2(0.0);
    for (var i = tid * STRETCH; i < (tid + 1u) * STRETCH; i++) {
        if pairs[i].x != 0u {
            let l = below(pairs[i].x, high);
            sum += vec2(exp(l), exp(l / state.temperature));
        }
    }
    sums[tid] = sum;
    workgroupBarrier();
    sum = vec2(0.0);
    for (var i = 0u; i < tid; i++) {
        sum += sums[i];
    }
    for (var i = tid * STRETCH; i < (tid + 1u) * STRETCH; i++) {
        if pairs[i].x != 0u {
            let l = below(pairs[i].x, high);
            sum += vec2(exp(l), exp(l / state.temperature));
        }
        sorted[start + i] = pairs[i];
        mass[start + i] = sum;
    }
}
