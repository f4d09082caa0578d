// Second half of sampling: picks the token and advances the state. Greedy: the best of the slices' bests. Else, in
// llama.cpp's order: top-k, top-p, min-p each as the lowest key that stays (ties at that key stay too), then a draw at the
// asked temperature. Keys are searched bit by bit; a slice answers "how many, how much mass from this key up" by binary
// search in its sorted keys. The draw hashes (seed, position), so a seed reproduces a text whatever was sampled before.
// Grid: one workgroup.   Bound: launch; top-k and top-p cost 32 rounds each where they are on.
#import lib/state
#import lib/keys

struct Params {
    vocabulary: u32,
    tokens: u32,      // of this step
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> sorted: array<vec2<u32>>;       // [slices, SLICE]: key, token
@group(0) @binding(3) var<storage, read> mass: array<vec2<f32>>;         // [slices, SLICE]: running sums
@group(0) @binding(4) var<storage, read_write> tokens: array<u32>;       // [context + 1]

const SLICE: u32 = 1024u;
var<workgroup> lane: array<vec2<f32>, WG>;
var<workgroup> lane_pair: array<vec2<u32>, WG>;
var<workgroup> shared_high: f32;

// How many keys of a slice are at least `key`.
fn count_from(slice: u32, key: u32) -> u32 {
    var low = 0u;
    var high = SLICE;
    while low < high {
        let middle = (low + high) / 2u;
        if sorted[slice * SLICE + middle].x >= key {
            low = middle + 1u;
        } else {
            high = middle;
        }
    }
    return low;
}

// Mass of a slice's keys from `key` up, relative to e^high; x at temperature 1, y at the asked one.
fn mass_from(slice: u32, key: u32, temperature: f32) -> vec2<f32> {
    let count = count_from(slice, key);
    if count == 0u {
        return vec2(0.0);
    }
    let l = below(sorted[slice * SLICE].x, shared_high);
    return mass[slice * SLICE + count - 1u] * vec2(exp(l), exp(l / temperature));
}

// Over all slices: x the count, y the mass at temperature 1, of keys from `key` up.
fn all_from(tid: u32, slices: u32, key: u32) -> vec2<f32> {
    var sum = vec2(0.0);
    for (var s = tid; s < slices; s += WG) {
        sum += vec2(f32(count_from(s, key)), mass_from(s, key, 1.0).x);
    }
    lane[tid] = sum;
    for (var stride = WG / 2u; stride > 0u; stride /= 2u) {
        workgroupBarrier();
        if tid < stride {
            lane[tid] += lane[tid + stride];
        }
    }
    workgroupBarrier();
    let result = lane[0];
    workgroupBarrier();
    return result;
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

@compute @workgroup_size(WG)
fn main(@builtin(local_invocation_index) tid: u32) {
    let asked = load_state(tid);
    if asked.halt != 0u {
        return;
    }
    let slices = (params.vocabulary + SLICE - 1u) / SLICE;
    var best = vec2(0u, 0xffffffffu);
    for (var s = tid; s < slices; s += WG) {
        let pair = sorted[s * SLICE];
        if pair.x > best.x || (pair.x == best.x && pair.y < best.y) {
            best = pair;
        }
    }
    lane_pair[tid] = best;
    workgroupBarrier();
    if tid == 0u {
        for (var i = 1u; i < WG; i++) {
            let pair = lane_pair[i];
            if pair.x > best.x || (pair.x == best.x && pair.y < best.y) {
                best = pair;
            }
        }
        shared_high = value_of(best.x);
        lane_pair[0] = best;
    }
    workgroupBarrier();
    let temperature = asked.temperature;
    if temperature == 0.0 {
        if tid == 0u {
            finish(lane_pair[0].y);
        }
        return;
    }

    // The lowest key that stays. 1 is below every finite logit and above the padding's 0.
    var floor = 1u;
    if asked.top_k > 0u && asked.top_k < params.vocabulary {
        var key = 0u;
        for (var bit = 0x80000000u; bit > 0u; bit >>= 1u) {
            if all_from(tid, slices, key | bit).x >= f32(asked.top_k) {
                key |= bit;
            }
        }
        floor = max(floor, key);
    }
    if asked.top_p < 1.0 {
        let wanted = asked.top_p * all_from(tid, slices, floor).y;
        var key = 0u;
        for (var bit = 0x80000000u; bit > 0u; bit >>= 1u) {
            if all_from(tid, slices, key | bit).y >= wanted {
                key |= bit;
            }
        }
        floor = max(floor, key);
    }
    if asked.min_p > 0.0 {
        floor = max(floor, key_of(shared_high + log(asked.min_p)));
    }
    floor = min(floor, lane_pair[0].x);

    if tid == 0u {
        var total = 0.0;
        for (var s = 0u; s < slices; s++) {
            total += mass_from(s, floor, temperature).y;
        }
        let position = asked.position + params.tokens;
        var left = random(asked.seed, position) * total;
        var token = lane_pair[0].y;
        for (var s = 0u; s < slices; s++) {
            let here = mass_from(s, floor, temperature).y;
            if left < here {
                let l = below(sorted[s * SLICE].x, shared_high);
                let target_mass = left / exp(l / temperature);
                var low = 0u;
                var high = count_from(s, floor) - 1u;
                while low < high {
                    let middle = (low + high) / 2u;
                    if mass[s * SLICE + middle].y > target_mass {
                        high = middle;
                    } else {
                        low = middle + 1u;
                    }
                }
                token = sorted[s * SLICE + low].y;
                break;
            }
            left -= here;
        }
        finish(token);
    }
}
