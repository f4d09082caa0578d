// Y[token] = W X[token] for many tokens; W in any block format. Tiles of BM rows of W by BN tokens, RUNS runs of 16 columns
// at a time in workgroup memory; an invocation keeps TM x TN results. Flags:
//   BIAS, RESIDUAL, SWIGLU, SILU_MUL, GELU, CLAMPED, LIMITED, CAPPED   as in matvec
//   GROUPED   W is a stack; a tile belongs to one expert and its tokens are the rows that expert_group listed for it
//   GATHER    of GROUPED: X is read at the listed row's token (row / ranks); else X lies in listed order
//   SCATTER   of GROUPED: Y is written at the listed row; else in listed order
//   DOT       integer dot products: X is rounded (lib/quantise)
//   F16       tiles in f16
//   WEIGHTED  of GATHER: X is gates[listed row] X
//   HEADS     W is a stack of one matrix a head; each head has its own part of a token's row of X and of Y
// Grid: tiles of rows, of HEADS one head after another (folded); tiles of tokens along z.
// Bound: operations; at few tokens the bytes of W.
#import lib/state
#import lib/weights
#import lib/activation
#import format
#import lib/matmul

const THREADS_M: u32 = BM / TM;
const WG: u32 = THREADS_M * (BN / TN);
#if DOT
#import lib/tile_dot
#else
#if F16
#import lib/tile_f16
#else
#import lib/tile_f32
#endif
#endif

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) tid: u32) {
    if halted() {
        return;
    }
    let tile = tile_of(group, groups);
    if tile.count == 0u {
        return;
    }
    let tm = tid % THREADS_M;
    let tn = tid / THREADS_M;
    let runs = (params.columns + 15u) / 16u;
    var sums: array<f32, TM * TN>;
    for (var run = 0u; run < runs; run += RUNS) {
        stage(tile, run, tid);
        workgroupBarrier();
        multiply(tm, tn, &sums);
        workgroupBarrier();
    }
    for (var j = 0u; j < TN; j++) {
        let n = tn + j * (BN / TN);
        if n >= tile.count {
            continue;
        }
        let row = y_row(tile, n);
        // Of SWIGLU the sums are TM / 2 gates, then the ups of the same outputs.
        const UP: u32 = TM * OUT / BM % TM;
        for (var i = 0u; i < TM * OUT / BM; i++) {
            let output = tile.first_row + tm + i * THREADS_M;
            if output < params.outputs {
                finish(tile, row, output, sums[i * TN + j], sums[(i + UP) * TN + j]);
            }
        }
    }
}
