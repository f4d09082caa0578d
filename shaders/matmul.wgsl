// Y[token] = W X[token] for many tokens; W in any block format. Tiles of BM rows of W by BN tokens, RUNS runs of 16 columns
// at a time decoded into workgroup memory; an invocation keeps TM x TN results. Flags:
//   BIAS, RESIDUAL, SWIGLU, SILU_MUL, GELU, CLAMPED   as in matvec
//   GROUPED   W is a stack; a tile belongs to one expert and its tokens are the rows that expert_group listed for it
//   GATHER    of GROUPED: X is read at the listed row's token (row / ranks); else X lies in listed order
//   SCATTER   of GROUPED: Y is written at the listed row; else in listed order
//   WEIGHTED  of GROUPED: X is gates[listed row] X
// Grid: tiles of rows (folded), tiles of tokens along z.
// Bound: operations; at few tokens the bytes of W.
#import lib/state
#import lib/weights
#import lib/activation
#import format

struct Params {
    outputs: u32,
    columns: u32,
    row_words: u32,
    tail_words: u32,
    tokens: u32,         // rows of X
    y_stride: u32,       // from one token's outputs to the next's
    y_base: u32,
    bias_base: u32,      // of BIAS
    expert_words: u32,   // of GROUPED
    shard: u32,          // of GROUPED
    ranks: u32,          // of GATHER
    first_group: u32,    // of a slice of the grid
    bias_stride: u32,    // of GROUPED and BIAS: from one expert's to the next's
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(3) var<storage, read> x: array<vec4<f32>>;         // [tokens, columns]
@group(0) @binding(4) var<storage, read_write> y: array<f32>;         // [tokens, y_stride]
#if BIAS
@group(0) @binding(5) var<storage, read> bias: array<f32>;            // [rows of all shards], or [experts, rows]
#endif
#if GROUPED
@group(0) @binding(6) var<storage, read> order: array<u32>;           // [tokens * ranks]: rows, sorted by expert
@group(0) @binding(7) var<storage, read> tiles: array<vec4<u32>>;     // expert, first in `order`, count, unused
@group(0) @binding(8) var<storage, read> experts: array<vec2<u32>>;   // [experts]: shard, slot
#endif
#if WEIGHTED
@group(0) @binding(10) var<storage, read> gates: array<f32>;          // [tokens * ranks]
#endif

const THREADS_M: u32 = BM / TM;
const WG: u32 = THREADS_M * (BN / TN);
const QUADS: u32 = 4u * RUNS;
var<workgroup> w_tile: array<vec4<f32>, QUADS * BM>;    // [quads, rows]
var<workgroup> x_tile: array<vec4<f32>, QUADS * BN>;    // [quads, tokens]

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) tid: u32) {
    if halted() {
        return;
    }
    // Of SWIGLU a tile is half gate rows, half the up rows of the same outputs.
#if SWIGLU
    const OUT: u32 = BM / 2u;
#else
    const OUT: u32 = BM;
#endif
    let first_row = (params.first_group + group.y * groups.x + group.x) * OUT;
    if first_row >= params.outputs {
        return;
    }
    var base = 0u;
    var first_token = group.z * BN;
    var count = min(params.tokens - first_token, BN);
#if GROUPED
    let tile = tiles[group.z];
    if tile.z == 0u {
        return;
    }
    let place = experts[tile.x];
    if place.x != params.shard {
        return;
    }
    base = place.y * params.expert_words;
    first_token = tile.y;
    count = tile.z;
#endif
    let tm = tid % THREADS_M;
    let tn = tid / THREADS_M;
    let quads = params.columns / 4u;
    let runs = (params.columns + 15u) / 16u;
    var sums: array<f32, TM * TN>;
    for (var run = 0u; run < runs; run += RUNS) {
        for (var task = tid; task < BM * RUNS; task += WG) {
            let m = task % BM;
            let r = task / BM;
            var row = min(first_row + m % OUT, params.outputs - 1u);
            if m >= OUT {
                row += params.outputs;
            }
            var w = mat4x4<f32>();
            if run + r < runs {
                let at = base + row * params.row_words;
                w = decode16(at, at + params.tail_words, run + r);
            }
            for (var i = 0u; i < 4u; i++) {
                w_tile[(4u * r + i) * BM + m] = w[i];
            }
        }
        for (var task = tid; task < BN * QUADS; task += WG) {
            let quad = task % QUADS;
            let n = task / QUADS;
            var v = vec4(0.0);
            if n < count && 4u * run + quad < quads {
                var token = first_token + n;
#if GATHER
                token = order[token] / params.ranks;
#endif
                v = x[token * quads + 4u * run + quad];
            }
            x_tile[quad * BN + n] = v;
        }
        workgroupBarrier();
        for (var quad = 0u; quad < QUADS; quad++) {
            var v: array<vec4<f32>, TN>;
            for (var j = 0u; j < TN; j++) {
                v[j] = x_tile[quad * BN + tn + j * (BN / TN)];
            }
            for (var i = 0u; i < TM; i++) {
                let w = w_tile[quad * BM + tm + i * THREADS_M];
                for (var j = 0u; j < TN; j++) {
                    sums[i * TN + j] += dot(w, v[j]);
                }
            }
        }
        workgroupBarrier();
    }
    for (var j = 0u; j < TN; j++) {
        let n = tn + j * (BN / TN);
        if n >= count {
            continue;
        }
        var token = first_token + n;
#if WEIGHTED
        let weight = gates[order[token]];
#endif
#if SCATTER
        token = order[token];
#endif
#if SWIGLU
        for (var i = 0u; i < TM / 2u; i++) {
#else
        for (var i = 0u; i < TM; i++) {
#endif
            let output = first_row + tm + i * THREADS_M;
            if output >= params.outputs {
                continue;
            }
            var value = sums[i * TN + j];
#if WEIGHTED
            value *= weight;
#endif
#if BIAS
            var bias_at = params.bias_base + output;
#if GROUPED
            bias_at += tile.x * params.bias_stride;
#endif
            value += bias[bias_at];
#endif
#if SWIGLU
            var up = sums[(i + TM / 2u) * TN + j];
#if WEIGHTED
            up *= weight;
#endif
#if BIAS
            up += bias[bias_at + params.outputs];
#endif
            value = gated(value, up);
#endif
            let at = token * params.y_stride + params.y_base + output;
#if SILU_MUL
            value = gated(value, y[at]);
#endif
#if RESIDUAL
            value += y[at];
#endif
            y[at] = value;
        }
    }
}
