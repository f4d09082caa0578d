// Second half of sampling: picks the token and advances the state. Greedy: the best of the slices' bests. Else, in
// llama.cpp's order: top-k, top-p, min-p each as the lowest key that stays (ties at that key stay too), then a draw at the
// asked temperature. The key is searched bit by bit, below the bits that all keys in question share, and no further than to a
// key that parts two others; a slice answers "how many, how much mass from this key up" by a search in its sorted keys. The
// draw hashes (seed, position), so a seed reproduces a text whatever was sampled before.
// Grid: one workgroup.   Bound: launch, and reads that wait for each other: of peaked logits some 8 rounds of 4 each for top-k and
// for top-p, of flat ones up to 26 of 20.
#import lib/state
#import lib/keys
#import lib/scan
#import lib/best

alias Summed = vec2<f32>;
struct Params {
    vocabulary: u32,
    tokens: u32,      // of this step
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> sorted: array<vec2<u32>>;       // [slices, SLICE]: key, token
@group(0) @binding(3) var<storage, read> mass: array<vec2<f32>>;         // [slices, SLICE]: running sums
@group(0) @binding(4) var<storage, read_write> tokens: array<u32>;       // [context + 1]

const SLICE: u32 = 1024u;
var<workgroup> drawn_by: atomic<u32>;    // the first invocation whose slices reach the mass that was drawn
var<private> high: f32;                  // the best logit
var<private> own_slices: vec2<u32>;      // of an invocation: the first, and behind the last

// How many keys of a slice are at least `key`: seldom many, so it asks at 1, 2, 4, ... first.
fn count_from(slice: u32, key: u32) -> u32 {
    let before = slice * SLICE - 1u;
    var low = 0u;     // so many are
    var end = 1u;     // fewer than so many
    while end <= SLICE && sorted[before + end].x >= key {
        low = end;
        end *= 2u;
    }
    end = min(end, SLICE + 1u);
    while low + 1u < end {
        let middle = (low + end) / 2u;
        if sorted[before + middle].x >= key {
            low = middle;
        } else {
            end = middle;
        }
    }
    return low;
}

// Mass of a slice's first `count` keys, relative to e^high; x at temperature 1, y at the asked one.
fn mass_of(slice: u32, count: u32, temperature: f32) -> vec2<f32> {
    let l = below(sorted[slice * SLICE].x, high);
    let sum = mass[slice * SLICE + max(count, 1u) - 1u] * vec2(exp(l), exp(l / temperature));
    return select(sum, vec2(0.0), count == 0u);
}

// Over all slices: x the count, y the mass at temperature 1, of keys from `key` up.
fn all_from(tid: u32, key: u32) -> vec2<f32> {
    var sum = vec2(0.0);
    for (var s = own_slices.x; s < own_slices.y; s++) {
        let count = count_from(s, key);
        sum += vec2(f32(count), mass_of(s, count, 1.0).x);
    }
    sum_up(tid, sum);
    return total();
}

// The highest key from which up there are `wanted`, a count and a mass, or one that keeps the same tokens. From `lowest` up there
// are; `highest` is the best key.
fn lowest_that_stays(tid: u32, lowest: u32, highest: u32, wanted: vec2<f32>) -> u32 {
    let differ = lowest ^ highest;
    let mask = select((2u << firstLeadingBit(differ)) - 1u, 0u, differ == 0u);
    var key = lowest & ~mask;
    var stay = 1e9;     // tokens from `key` up
    var less = 0.0;     // tokens from the least key up that is known to be too high
    for (var bit = mask ^ (mask >> 1u); bit > 0u; bit >>= 1u) {
        let middle = key | bit;
        if middle <= lowest {
            key = middle;
        } else if middle <= highest {
            let found = all_from(tid, middle);
            if all(found >= wanted) {
                key = middle;
                stay = found.x;
            } else {
                less = found.x;
            }
            if stay <= max(less + 1.0, wanted.x) {
                break;
            }
        }
    }
    return max(key, lowest);
}

// The lowest key that top-k, top-p and min-p let stay; `best` is the best pair.
fn lowest_by_filters(tid: u32, best: vec2<u32>, top_k: u32, top_p: f32, min_p: f32) -> u32 {
    // 1 is below every finite logit and above the padding's 0.
    var floor = 1u;
    if top_k > 0u && top_k < params.vocabulary {
        // The best token's slice alone has so many keys from this one up.
        let lowest = max(sorted[best.y / SLICE * SLICE + min(top_k, SLICE) - 1u].x, 1u);
        floor = lowest_that_stays(tid, select(1u, lowest, top_k <= SLICE), best.x, vec2(f32(top_k), 0.0));
    }
    if top_p < 1.0 {
        // All that is so far below the best has less mass than may go, the best having 1.
        let depth = log(f32(params.vocabulary) / (1.0 - top_p)) + 1.0;
        let wanted = vec2(0.0, top_p * all_from(tid, floor).y);
        floor = lowest_that_stays(tid, max(floor, key_of(value_of(best.x) - depth)), best.x, wanted);
    }
    if min_p > 0.0 {
        floor = max(floor, key_of(value_of(best.x) + log(min_p)));
    }
    return min(floor, best.x);
}

// PCG-RXS-M-XS 32 (O'Neill 2014), of two words.
fn random(a: u32, b: u32) -> f32 {
    var s = (a ^ (b * 0x9e3779b9u)) * 747796405u + 2891336453u;
    s = ((s >> ((s >> 28u) + 4u)) ^ s) * 277803737u;
    s = (s >> 22u) ^ s;
    s = (s ^ b) * 747796405u + 2891336453u;
    s = ((s >> ((s >> 28u) + 4u)) ^ s) * 277803737u;
    return f32(((s >> 22u) ^ s) >> 8u) / 16777216.0;
}

fn finish(token: u32) {
    let position = state.position + params.tokens;
    tokens[position] = token;
    state.last = token;
    state.position = position;
    state.generated += 1u;
    state.clock += 1u;
    var halt = 0u;
    if position >= state.context {
        halt = HALT_CONTEXT;
    }
    if state.generated >= state.limit {
        halt = HALT_LIMIT;
    }
    for (var i = 0u; i < state.stop_count; i++) {
        if state.stop[i / 4u][i % 4u] == token {
            halt = HALT_STOP;
        }
    }
    state.halt = halt;
}

// The token at which a slice's running sums pass `left`, of its keys from `floor` up.
fn token_at(slice: u32, count: u32, left: f32, temperature: f32) -> u32 {
    let wanted = left / exp(below(sorted[slice * SLICE].x, high) / temperature);
    var low = 0u;
    var end = count - 1u;
    while low < end {
        let middle = (low + end) / 2u;
        if mass[slice * SLICE + middle].y > wanted {
            end = middle;
        } else {
            low = middle + 1u;
        }
    }
    return sorted[slice * SLICE + low].y;
}

@compute @workgroup_size(WG)
fn main(@builtin(local_invocation_index) tid: u32) {
    let asked = load_state(tid);
    if asked.halt != 0u {
        return;
    }
    let slices = (params.vocabulary + SLICE - 1u) / SLICE;
    let each = (slices + WG - 1u) / WG;
    own_slices = min(vec2(tid * each, (tid + 1u) * each), vec2(slices));
    var best = WORST;
    for (var s = own_slices.x; s < own_slices.y; s++) {
        let pair = sorted[s * SLICE];
        best = select(best, pair, is_before(pair, best));
    }
    best = best_of(tid, best);
    if asked.temperature == 0.0 {
        if tid == 0u {
            finish(best.y);
        }
        return;
    }
    high = value_of(best.x);
    let floor = lowest_by_filters(tid, best, asked.top_k, asked.top_p, asked.min_p);

    // Masses are added up in the order of slices.
    atomicStore(&drawn_by, WG);
    var mine = 0.0;
    for (var s = own_slices.x; s < own_slices.y; s++) {
        mine += mass_of(s, count_from(s, floor), asked.temperature).y;
    }
    sum_up(tid, vec2(mine, 0.0));
    var left = random(asked.seed, asked.position + params.tokens) * total().x;
    if left < before(tid).x + mine {
        atomicMin(&drawn_by, tid);
    }
    workgroupBarrier();
    // Where rounding leaves more than all masses, the first one takes it.
    if tid != atomicLoad(&drawn_by) % WG {
        return;
    }
    var token = best.y;
    left -= before(tid).x;
    for (var s = own_slices.x; s < own_slices.y; s++) {
        let count = count_from(s, floor);
        let here = mass_of(s, count, asked.temperature).y;
        if left < here {
            token = token_at(s, count, left, asked.temperature);
            break;
        }
        left -= here;
    }
    finish(token);
}
