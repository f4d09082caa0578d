// The keys of the `top_k` best scores of each token, ties to the lower one, listed in rising order; of a token that sees no
// more than so many, all. It sees one for each `ratio` positions up to its own. The lowest score that stays is found digit by
// digit, 8 bits at a time, by counting in workgroup memory; then each invocation lists its stretch of keys behind those of
// the stretches before it. Atomics only count, so the result does not depend on timing.
// Grid: one workgroup a token of the slice.   Bound: six readings of the scores by one workgroup, from cache.
#import lib/state
#import lib/scan

alias Summed = vec2<u32>;    // of a stretch of keys: above the lowest score, equal to it
struct Params {
    first_token: u32,     // of the step: the slice's first
    top_k: u32,
    score_stride: u32,    // from one token's scores to the next's; a multiple of 4
    ratio: u32,
    first_group: u32, // of a slice of the grid
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> scores: array<vec4<f32>>;          // [tokens of the slice, score_stride]
@group(0) @binding(3) var<storage, read_write> selected: array<u32>;        // [tokens of the step, top_k]

// Most scores share their first digit: invocations side by side count it in different places.
const COPIES: u32 = 8u;
// Quads that an invocation loads before it waits for them.
const LOADS: u32 = 4u;
var<workgroup> histogram: array<atomic<u32>, 256u * COPIES>;
var<workgroup> digits: array<u32, 256>;
var<workgroup> sixteens: array<u32, 16>;        // digits that share their upper half

// Rises with the score; the two zeros are one.
fn ordered(scores: vec4<f32>) -> vec4<u32> {
    let bits = bitcast<vec4<u32>>(scores);
    let negative = select(~bits, vec4(0x80000000u), bits == vec4(0x80000000u));
    return select(bits | vec4(0x80000000u), negative, bits >= vec4(0x80000000u));
}

// Scores in quads `quad` and behind it, ordered; of those beyond `last`, that one's.
fn load_quads(first: u32, quad: u32, last: u32) -> array<vec4<u32>, LOADS> {
    var loaded = array<vec4<u32>, LOADS>();
    for (var k = 0u; k < LOADS; k++) {
        loaded[k] = ordered(scores[first + min(quad + k, last)]);
    }
    return loaded;
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
    let first = row * (params.score_stride / 4u);
    let quads = (count + 3u) / 4u;
    var lowest = 0u;    // digits found so far
    var mask = 0u;      // where they are
    var left = params.top_k;
    for (var shift = 32u; shift > 0u; shift -= 8u) {
        for (var d = tid; d < 256u * COPIES; d += WG) {
            atomicStore(&histogram[d], 0u);
        }
        workgroupBarrier();
        for (var quad = tid; quad < quads; quad += LOADS * WG) {
            var loaded = array<vec4<f32>, LOADS>();
            for (var k = 0u; k < LOADS; k++) {
                loaded[k] = scores[first + min(quad + k * WG, quads - 1u)];
            }
            for (var k = 0u; k < LOADS; k++) {
                let at = 4u * (quad + k * WG);
                let score = ordered(loaded[k]);
                for (var i = 0u; i < 4u; i++) {
                    if at + i < count && (score[i] & mask) == lowest {
                        atomicAdd(&histogram[((score[i] >> (shift - 8u)) & 255u) * COPIES + tid % COPIES], 1u);
                    }
                }
            }
        }
        workgroupBarrier();
        for (var d = tid; d < 256u; d += WG) {
            var sum = 0u;
            for (var c = 0u; c < COPIES; c++) {
                sum += atomicLoad(&histogram[d * COPIES + c]);
            }
            digits[d] = sum;
        }
        workgroupBarrier();
        for (var half = tid; half < 16u; half += WG) {
            var sum = 0u;
            for (var d = 0u; d < 16u; d++) {
                sum += digits[16u * half + d];
            }
            sixteens[half] = sum;
        }
        workgroupBarrier();
        var upper = 15u;
        while sixteens[upper] < left && upper > 0u {
            left -= sixteens[upper];
            upper--;
        }
        var digit = 16u * upper + 15u;
        while digits[digit] < left && digit > 16u * upper {
            left -= digits[digit];
            digit--;
        }
        lowest |= digit << (shift - 8u);
        mask |= 255u << (shift - 8u);
    }

    let stretch = (quads + WG - 1u) / WG;
    let begin = min(tid * stretch, quads);
    let end = min(begin + stretch, quads);
    var mine = vec2(0u);
    for (var quad = begin; quad < end; quad += LOADS) {
        let loaded = load_quads(first, quad, end - 1u);
        for (var k = 0u; k < LOADS * 4u; k++) {
            let seen = quad + k / 4u < end && 4u * quad + k < count;
            let score = loaded[k / 4u][k % 4u];
            mine += vec2(u32(seen && score > lowest), u32(seen && score == lowest));
        }
    }
    sum_up(tid, mine);
    var place = before(tid);
    for (var quad = begin; quad < end; quad += LOADS) {
        let loaded = load_quads(first, quad, end - 1u);
        for (var k = 0u; k < LOADS * 4u; k++) {
            let seen = quad + k / 4u < end && 4u * quad + k < count;
            let score = loaded[k / 4u][k % 4u];
            let above = seen && score > lowest;
            let equal = seen && score == lowest;
            if above || (equal && place.y < left) {
                selected[list + place.x + min(place.y, left)] = 4u * quad + k;
            }
            place += vec2(u32(above), u32(equal));
        }
    }
}
