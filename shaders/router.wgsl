// The experts of a token and their weights: softmax over all logits, the top `ranks` (ties to the lower index), then
// RENORMALISE to a sum of 1. An expert's rank is the number of experts before it, so no sort and no order to depend on.
// SIGMOID: the weights are sigmoids of the chosen logits, times `scale`; with BIAS the best by sigmoid + bias are chosen.
// Grid: one workgroup a token, folded.   Bound: launch.   EXPERTS sizes workgroup memory: 1,024 at most.
#import lib/state

struct Params {
    tokens: u32,
    experts: u32,
    ranks: u32,
    scale: f32,      // of SIGMOID
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> logits: array<f32>;            // [tokens, experts]
@group(0) @binding(3) var<storage, read_write> routed: array<u32>;      // [tokens, ranks]
@group(0) @binding(4) var<storage, read_write> gates: array<f32>;       // [tokens, ranks]
#if SIGMOID
fn sigmoid(x: f32) -> f32 {
    return 1.0 / (1.0 + exp(min(-x, 80.0)));
}
#endif
#if BIAS
@group(0) @binding(5) var<storage, read> bias: array<f32>;              // [experts]
#endif

var<workgroup> scores: array<f32, EXPERTS>;
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
    let token = group.y * groups.x + group.x;
    if token >= params.tokens {
        return;
    }
    for (var e = tid; e < params.experts; e += WG) {
#if BIAS
        scores[e] = sigmoid(logits[token * params.experts + e]) + bias[e];
#else
        scores[e] = logits[token * params.experts + e];
#endif
    }
    workgroupBarrier();
    for (var e = tid; e < params.experts; e += WG) {
        let score = scores[e];
        var before = 0u;
        for (var o = 0u; o < params.experts; o++) {
            before += select(0u, 1u, scores[o] > score || (scores[o] == score && o < e));
        }
        if before < params.ranks {
            routed[token * params.ranks + before] = e;
#if SIGMOID
            chosen[before] = sigmoid(logits[token * params.experts + e]);
#else
            chosen[before] = score;
#endif
        }
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
        gates[token * params.ranks + r] = chosen[r] * factor;
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
        gates[token * params.ranks + r] = exp(chosen[r] - high) / sum;
    }
#endif
}
