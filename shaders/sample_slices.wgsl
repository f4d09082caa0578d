// First half of sampling: a slice of SLICE logits a workgroup. Greedy: its best. Else the repetition penalty, then the
// slice sorted (highest first, ties to the lower index) with running sums of e^(l - best), at temperature 1 and at the
// temperature asked for: what `sample` needs to find any count or mass by binary search.
// Grid: vocabulary / SLICE.   Bound: launch and 55 barriers of the bitonic sort.
#import lib/state
#import lib/keys
#import lib/scan
#import lib/best

alias Summed = vec2<f32>;
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
const STRETCH: u32 = SLICE / WG;
var<workgroup> pairs: array<vec2<u32>, SLICE>;
var<workgroup> repeated: array<atomic<u32>, SLICE / 32u>;    // a bit a token of the slice

// Which tokens of the slice that starts at `start` are among those that a penalty looks back at.
fn mark_repeated(tid: u32, start: u32) {
    for (var w = tid; w < SLICE / 32u; w += WG) {
        atomicStore(&repeated[w], 0u);
    }
    workgroupBarrier();
    let end = state.position + params.tokens;
    for (var i = end - min(state.repeat_last, end) + tid; i < end; i += WG) {
        let place = tokens[i] - start;
        if place < SLICE {
            atomicOr(&repeated[place / 32u], 1u << (place % 32u));
        }
    }
    workgroupBarrier();
}

// Of the logit at `i` of the slice; padding has the key 0.
fn pair_of(i: u32, start: u32) -> vec2<u32> {
    let token = start + i;
    let value = logits[params.base + min(token, params.vocabulary - 1u)];
    let penalised = select(value * state.repeat_penalty, value / state.repeat_penalty, value > 0.0);
    let is_repeated = ((atomicLoad(&repeated[i / 32u]) >> (i % 32u)) & 1u) == 1u;
    return vec2(select(0u, key_of(select(value, penalised, is_repeated)), token < params.vocabulary), token);
}

fn sort_pairs(tid: u32) {
    for (var size = 2u; size <= SLICE; size *= 2u) {
        for (var stride = size / 2u; stride > 0u; stride /= 2u) {
            for (var i = tid; i < SLICE / 2u; i += WG) {
                let low = 2u * stride * (i / stride) + i % stride;
                let a = pairs[low];
                let b = pairs[low + stride];
                if is_before(b, a) == ((low & size) == 0u) {
                    pairs[low] = b;
                    pairs[low + stride] = a;
                }
            }
            workgroupBarrier();
        }
    }
}

// e^(l - high) of a pair, at temperature 1 and at the one asked for.
fn mass_of(pair: vec2<u32>, high: f32) -> vec2<f32> {
    let l = below(pair.x, high);
    return select(vec2(exp(l), exp(l / state.temperature)), vec2(0.0), pair.x == 0u);
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
    if halted() {
        return;
    }
    let start = group.x * SLICE;
    mark_repeated(tid, start);
    var best = WORST;
    for (var k = 0u; k < STRETCH; k++) {
        let pair = pair_of(k * WG + tid, start);
        best = select(best, pair, is_before(pair, best));
        pairs[k * WG + tid] = pair;
    }
    best = best_of(tid, best);
    if state.temperature == 0.0 {
        if tid == 0u {
            sorted[start] = best;
        }
        return;
    }
    sort_pairs(tid);
    let high = value_of(best.x);
    var sum = vec2(0.0);
    for (var i = 0u; i < STRETCH; i++) {
        sum += mass_of(pairs[tid * STRETCH + i], high);
    }
    sum_up(tid, sum);
    sum = before(tid);
    for (var i = 0u; i < STRETCH; i++) {
        let at = tid * STRETCH + i;
        sum += mass_of(pairs[at], high);
        sorted[start + at] = pairs[at];
        mass[start + at] = sum;
    }
}
