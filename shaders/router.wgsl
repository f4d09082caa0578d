// The experts of a token and their weights: softmax over all logits, the top `ranks` (ties to the lower index), then
// RENORMALISE to a sum of 1. An expert's rank is the number of experts before it, so no sort and no order to depend on.
// SIGMOID: scores are sigmoids; a bias counts for the choice alone; the weights are the chosen scores, times `scale`.
// SOFTPLUS, of SIGMOID: sqrt(log(1 + e^logit)) in place of the sigmoid.
// HASHED, of SOFTPLUS: the token's id says which experts; their weights are as always.
// UNBIASED: no bias; the largest logits are chosen, whose sigmoids may round to the same.
// GROUPS: only the experts of the `groups_used` groups whose two best score most together can be chosen.
// SCALED: an expert's weight is multiplied by its own factor, last.
// After the `ranks` chosen ones come `shared_experts` that all tokens use, with weight 1; SHARED_GATE: with the sigmoid of
// the logit behind those of the experts.
// Grid: one workgroup a token, folded.   Bound: launch.   EXPERTS sizes workgroup memory: 1,024 at most.
#import lib/state
#import lib/sigmoid

struct Params {
    tokens: u32,
    experts: u32,
    ranks: u32,
    scale: f32,      // of SIGMOID
    shared_experts: u32,
    groups: u32,     // of GROUPS: of experts / groups experts each
    groups_used: u32,
    stride: u32,     // of a row of logits
    first_group: u32, // of a slice of the grid
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> logits: array<f32>;            // [tokens, stride], experts first
@group(0) @binding(3) var<storage, read_write> routed: array<u32>;      // [tokens, ranks + shared_experts]
@group(0) @binding(4) var<storage, read_write> gates: array<f32>;       // [tokens, ranks + shared_experts]
#if HASHED
@group(0) @binding(5) var<storage, read> table: array<u32>;             // [vocabulary, ranks]
@group(0) @binding(6) var<storage, read> tokens: array<u32>;            // [context + 1]
#endif
#if SIGMOID
#if !UNBIASED
@group(0) @binding(5) var<storage, read> bias: array<f32>;              // [experts]
#endif
#endif

// A chosen expert's, before it is scaled.
fn weight_of(logit: f32) -> f32 {
#if SOFTPLUS
    return sqrt(softplus(logit));
#else
    return sigmoid(logit);
#endif
}

#if SIGMOID
#if !HASHED
fn score_of(e: u32, logit: f32) -> f32 {
#if UNBIASED
    return logit;
#else
    return weight_of(logit) + bias[e];
#endif
}
#endif
#endif

#if SCALED
@group(0) @binding(5) var<storage, read> scales: array<f32>;            // [experts]
var<workgroup> chosen_scale: array<f32, EXPERTS>;
#endif

#if !HASHED
const LOWEST: f32 = -3.0e38;
var<workgroup> scores: array<f32, EXPERTS>;
#endif
var<workgroup> chosen: array<f32, EXPERTS>;
#if !SIGMOID
#if !RENORMALISE
var<workgroup> lane_sum: array<f32, WG>;
#endif
#endif

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) tid: u32) {
    if halted() {
        return;
    }
    let token = params.first_group + group.y * groups.x + group.x;
    if token >= params.tokens {
        return;
    }
    let first = token * (params.ranks + params.shared_experts);
#if HASHED
    for (var r = tid; r < params.ranks; r += WG) {
        let e = table[tokens[state.position + token] * params.ranks + r];
        routed[first + r] = e;
        chosen[r] = weight_of(logits[token * params.stride + e]);
    }
#else
    for (var e = tid; e < params.experts; e += WG) {
#if SIGMOID
        scores[e] = score_of(e, logits[token * params.stride + e]);
#else
        scores[e] = logits[token * params.stride + e];
#endif
    }
    workgroupBarrier();
#if GROUPS
    // `chosen` holds the groups' scores meanwhile.
    let size = params.experts / params.groups;
    for (var g = tid; g < params.groups; g += WG) {
        var best = vec2(LOWEST);
        for (var e = g * size; e < (g + 1u) * size; e++) {
            best = vec2(max(best.x, scores[e]), max(best.y, min(best.x, scores[e])));
        }
        chosen[g] = best.x + best.y;
    }
    workgroupBarrier();
    for (var e = tid; e < params.experts; e += WG) {
        let score = chosen[e / size];
        var before = 0u;
        for (var o = 0u; o < params.groups; o++) {
            before += select(0u, 1u, chosen[o] > score || (chosen[o] == score && o < e / size));
        }
        if before >= params.groups_used {
            scores[e] = LOWEST;
        }
    }
    workgroupBarrier();
#endif
    for (var e = tid; e < params.experts; e += WG) {
        let score = scores[e];
        var before = 0u;
        for (var o = 0u; o < params.experts; o++) {
            before += select(0u, 1u, scores[o] > score || (scores[o] == score && o < e));
        }
        if before < params.ranks {
            routed[first + before] = e;
#if SCALED
            chosen_scale[before] = scales[e];
#endif
#if SIGMOID
            chosen[before] = weight_of(logits[token * params.stride + e]);
#else
            chosen[before] = score;
#endif
        }
    }
#endif
    for (var r = tid; r < params.shared_experts; r += WG) {
        routed[first + params.ranks + r] = params.experts + r;
#if SHARED_GATE
        gates[first + params.ranks + r] = sigmoid(logits[token * params.stride + params.experts]);
#else
        gates[first + params.ranks + r] = 1.0;
#endif
    }
    workgroupBarrier();
#if SIGMOID
    var factor = params.scale;
#if RENORMALISE
    var sum = 1e-20;
    for (var r = 0u; r < params.ranks; r++) {
        sum += chosen[r];
    }
    factor /= sum;
#endif
    for (var r = tid; r < params.ranks; r += WG) {
        gates[first + r] = chosen[r] * factor;
    }
#else
    // chosen[0] is the maximum.
    let high = chosen[0];
    var sum = 0.0;
#if RENORMALISE
    for (var r = 0u; r < params.ranks; r++) {
        sum += exp(chosen[r] - high);
    }
#else
    for (var e = tid; e < params.experts; e += WG) {
        sum += exp(scores[e] - high);
    }
    lane_sum[tid] = sum;
    workgroupBarrier();
    sum = 0.0;
    for (var l = 0u; l < WG; l++) {
        sum += lane_sum[l];
    }
#endif
    for (var r = tid; r < params.ranks; r += WG) {
#if SCALED
        gates[first + r] = exp(chosen[r] - high) / sum * chosen_scale[r];
#else
        gates[first + r] = exp(chosen[r] - high) / sum;
#endif
    }
#endif
}
