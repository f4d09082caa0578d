// Y[token] = W X[token] for 2 to 8 tokens: matvec whose weights are read and decoded once for all of them. A tile is BM rows
// by BN tokens, and a workgroup's invocations share the columns. Flags as in matmul, and
//   RAGGED   columns are no multiple of 16
// Grid: tiles of rows, folded.
// Bound: bytes of W. A run of 16 weights costs its decoding and 16 multiply-adds a token: in q4_k some 250 lane operations
// for 8 tokens on gfx1151, where the 64 tokens of matmul's tiles take 1,030, whether they are there or not. X is read again
// by every workgroup, from cache: BM rows share one reading.
#import lib/state
#import lib/weights
#import lib/activation
#import format
#import lib/matmul
#import lib/inputs
const SUMS: u32 = BM * BN;
#import lib/reduce

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, invocation: Invocation) {
    let tid = invocation.tid;
    if halted() {
        return;
    }
    let tile = tile_of(group, groups);
    if tile.count == 0u {
        return;
    }
    for (var run = tid; run < (params.columns + 15u) / 16u; run += WG) {
        var w = array<mat4x4<f32>, BM>();
        for (var m = 0u; m < BM; m++) {
            w[m] = w16(tile, m, run);
        }
        for (var n = 0u; n < BN; n++) {
            // Past the last token, the last one's again.
            let v = x16(x_row(tile, min(n, tile.count - 1u)) + 4u * run, params.columns / 4u - 4u * run);
            for (var m = 0u; m < BM; m++) {
                acc[m * BN + n] += dot16(w[m], v);
            }
        }
    }
    reduce(invocation);
    for (var task = tid; task < OUT * BN; task += WG) {
        let m = task % OUT;
        let n = task / OUT;
        let output = tile.first_row + m;
        if n < tile.count && output < params.outputs {
            finish(tile, y_row(tile, n), output, total(m * BN + n), total((m + OUT % BM) * BN + n));
        }
    }
}
