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

#if !HASHED
fn score_of(token: u32, expert: u32) -> f32 {
    let e = min(expert, params.experts - 1u);
    var score = logits[token * params.stride + e];
#if SIGMOID
#if !UNBIASED
    score = weight_of(score) + bias[e];
#endif
#endif
    return select(LOWEST, score, e == expert);
}
#endif

#if SCALED
@group(0) @binding(5) var<storage, read> scales: array<f32>;            // [experts]
var<workgroup> chosen_scale: array<f32, EXPERTS>;
#endif

#if !HASHED
// Quads that are read before the first of them is waited for.
const AT_ONCE: u32 = 4u;
const QUADS: u32 = (EXPERTS + 4u * AT_ONCE - 1u) / (4u * AT_ONCE) * AT_ONCE;
// The least finite f32: of what is no expert, or in no group that can be chosen.
const LOWEST: f32 = -3.4028234e38;
var<workgroup> scores: array<vec4<f32>, QUADS>;
#endif
#if GROUPS
var<workgroup> stays: array<u32, EXPERTS>;    // 1 of a group that can be chosen
#endif
var<workgroup> chosen: array<f32, EXPERTS>;
#if !SIGMOID
#if !RENORMALISE
alias Summed = f32;
#import lib/scan
#endif
#endif

#if !HASHED
// How many experts come before one.
fn scores_before(e: u32, score: f32) -> u32 {
    var before = vec4(0u);
    for (var quad = 0u; 4u * quad < params.experts; quad += AT_ONCE) {
        for (var i = 0u; i < AT_ONCE; i++) {
            let others = scores[quad + i];
            let is_lower = 4u * (quad + i) + vec4(0u, 1u, 2u, 3u) < vec4(e);
            before += vec4<u32>((others > vec4(score)) | ((others == vec4(score)) & is_lower));
        }
    }
    return before.x + before.y + before.z + before.w;
}
#endif

#if GROUPS
// Experts of other groups get the lowest score.
fn keep_best_groups(tid: u32) {
    // `chosen` holds the groups' scores meanwhile.
    let size = params.experts / params.groups;
    for (var g = tid; g < params.groups; g += WG) {
        var best = vec2(LOWEST);
        for (var e = g * size; e < (g + 1u) * size; e++) {
            let score = scores[e / 4u][e % 4u];
            best = vec2(max(best.x, score), max(best.y, min(best.x, score)));
        }
        chosen[g] = best.x + best.y;
    }
    workgroupBarrier();
    for (var g = tid; g < params.groups; g += WG) {
        var before = 0u;
        for (var o = 0u; o < params.groups; o++) {
            before += select(0u, 1u, chosen[o] > chosen[g] || (chosen[o] == chosen[g] && o < g));
        }
        stays[g] = u32(before < params.groups_used);
    }
    workgroupBarrier();
    for (var q = tid; q < QUADS; q += WG) {
        let group = min(4u * q + vec4(0u, 1u, 2u, 3u), vec4(params.experts - 1u)) / size;
        let stay = vec4(stays[group.x], stays[group.y], stays[group.z], stays[group.w]) == vec4(1u);
        scores[q] = select(vec4(LOWEST), scores[q], stay);
    }
    workgroupBarrier();
}
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
    for (var q = tid; q < QUADS; q += WG) {
        let e = 4u * q;
        scores[q] = vec4(score_of(token, e), score_of(token, e + 1u), score_of(token, e + 2u), score_of(token, e + 3u));
    }
    workgroupBarrier();
#if GROUPS
    keep_best_groups(tid);
#endif
    for (var e = tid; e < params.experts; e += WG) {
        let score = scores[e / 4u][e % 4u];
        let before = scores_before(e, score);
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
        sum += exp(scores[e / 4u][e % 4u] - high);
    }
    sum_up(tid, sum);
    sum = total();
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
