// y = W x for one token; W in any block format. What is fused, by flag:
//   NORM      x is first RMS-normalised: the sum of squares is reduced beside the rows and scales them at the end
//   BIAS      y += bias          RESIDUAL  y += what y held
//   SWIGLU    W is [2 * outputs, columns], gate rows first: y = silu(gate) * up
//   SILU_MUL  y = silu(W x) * what y held (gate and up of two formats: up first, then gate)
//   GELU, CLAMPED, LIMITED, CAPPED   of both: another activation (lib/activation); a bias comes before it
//   DOT       integer dot products: x is rounded (lib/quantise), its norm applied before
//   EXPERT    W is a stack of experts; the workgroup's z is a rank, its expert is routed[rank], its row of y is rank
//   WEIGHTED  of EXPERT: x is gates[rank] x
//   HEADS     W is a stack of one matrix a head; the workgroup's z is a head, which has its own x and its own part of y
// Grid: outputs / OUT workgroups, folded; ranks or heads along z.
// Bound: bytes(W) over the stream rate. Every workgroup reads x again, from cache: ROWS rows share one reading.
#import lib/state
#import lib/weights
#import lib/activation
#import format
#if SWIGLU
const OUT: u32 = ROWS / 2u;
#else
const OUT: u32 = ROWS;
#endif
#if NORM
const SUMS: u32 = ROWS + 1u;
#else
const SUMS: u32 = ROWS;
#endif
#import lib/reduce

struct Params {
    outputs: u32,
    columns: u32,
    row_words: u32,
    tail_words: u32,     // from a row's start to its tails
    x_base: u32,         // first quad of x
    y_base: u32,
    bias_base: u32,      // of BIAS
    eps: f32,            // of NORM
    expert_words: u32,   // of EXPERT and HEADS: words an expert or head
    shard: u32,          // of EXPERT: the first shard that is bound
    first_group: u32,    // of a slice of the grid
    bias_stride: u32,    // of EXPERT and BIAS: from one expert's to the next's
    limit: f32,          // of LIMITED and CAPPED
    x_head: u32,         // of HEADS: quads from one head's x to the next's
    y_head: u32,         // of HEADS: from one head's outputs to the next's
}
@group(0) @binding(1) var<uniform> params: Params;
#if DOT
@group(0) @binding(3) var<storage, read> x: array<vec4<u32>>;         // [columns / 32, 3]
#else
@group(0) @binding(3) var<storage, read> x: array<vec4<f32>>;         // [columns]
#endif
@group(0) @binding(4) var<storage, read_write> y: array<f32>;         // [outputs] or [ranks, outputs]
#if NORM
@group(0) @binding(5) var<storage, read> norm: array<vec4<f32>>;      // [columns]
#endif
#if BIAS
@group(0) @binding(6) var<storage, read> bias: array<f32>;            // [rows of all shards], or [experts, rows]
#endif
#if EXPERT
@group(0) @binding(7) var<storage, read> routed: array<u32>;          // [ranks]
@group(0) @binding(8) var<storage, read> experts: array<vec2<u32>>;   // [experts]: shard, slot
#endif
#if WEIGHTED
@group(0) @binding(10) var<storage, read> gates: array<f32>;          // [ranks]
#endif

#if DOT
#import lib/quantised
#else
#import lib/inputs
#endif

#if NORM
fn norm16(run: u32) -> mat4x4<f32> {
    let i = 4u * run;
#if RAGGED
    let last = params.columns / 4u - 1u;
    return mat4x4(norm[i], norm[min(i + 1u, last)], norm[min(i + 2u, last)], norm[min(i + 3u, last)]);
#else
    return mat4x4(norm[i], norm[i + 1u], norm[i + 2u], norm[i + 3u]);
#endif
}
#endif

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, invocation: Invocation) {
    let tid = invocation.tid;
    if halted() {
        return;
    }
    let first = (params.first_group + group.y * groups.x + group.x) * OUT;
    if first >= params.outputs {
        return;
    }
    var base = 0u;
#if EXPERT
    let place = experts[routed[group.z]];
#if SHARDS_2
    if !open_shard(place.x, params.shard) {
        return;
    }
#else
    if place.x != params.shard {
        return;
    }
#endif
    base = place.y * params.expert_words;
#endif
    var x_base = params.x_base;
#if HEADS
    base = group.z * params.expert_words;
    x_base += group.z * params.x_head;
#endif
    var rows: array<u32, ROWS>;
    for (var r = 0u; r < ROWS; r++) {
        // Rows past the end are computed again and not written.
        var row = min(first + r % OUT, params.outputs - 1u);
        if r >= OUT {
            row += params.outputs;
        }
        rows[r] = base + row * params.row_words;
    }
    for (var run = tid; run < (params.columns + 15u) / 16u; run += WG) {
#if DOT
        let v = quantised16(x_base, run);
        for (var r = 0u; r < ROWS; r++) {
            acc[r] += integer_dot16(quants16(rows[r], rows[r] + params.tail_words, run), v);
        }
#else
        var v = x16(x_base + 4u * run, params.columns / 4u - 4u * run);
#if NORM
        acc[ROWS] += dot16(v, v);
        let n = norm16(run);
        v = mat4x4(v[0] * n[0], v[1] * n[1], v[2] * n[2], v[3] * n[3]);
#endif
        for (var r = 0u; r < ROWS; r++) {
            acc[r] += dot16(decode16(rows[r], rows[r] + params.tail_words, run), v);
        }
#endif
    }
    reduce(invocation);
    let output = first + tid;
    if tid >= OUT || output >= params.outputs {
        return;
    }
    var scale = 1.0;
#if NORM
    scale = inverseSqrt(total(ROWS) / f32(params.columns) + params.eps);
#endif
#if WEIGHTED
    scale *= gates[group.z];
#endif
    var value = total(tid) * scale;
#if BIAS
    var bias_at = params.bias_base + output;
#if EXPERT
    bias_at += routed[group.z] * params.bias_stride;
#endif
    value += bias[bias_at];
#endif
#if SWIGLU
    var up = total(OUT + tid) * scale;
#if BIAS
    up += bias[bias_at + params.outputs];
#endif
    value = gated(value, up);
#endif
#if HEADS
    let at = params.y_base + group.z * params.y_head + output;
#else
    let at = params.y_base + group.z * params.outputs + output;
#endif
#if SILU_MUL
    value = gated(value, y[at]);
#endif
#if RESIDUAL
    value += y[at];
#endif
    y[at] = value;
}
