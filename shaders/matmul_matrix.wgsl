// matmul by cooperative matrices of SIDE x SIDE: inputs rounded to f16, products summed in f32. Flags as in matmul, and
//   SIDE_16   fragments are 16 x 16; else 8 x 8
// Tiles as in matmul; a strip of SIDE rows of W belongs to one subgroup, which keeps its sums for all tokens of the tile.
// How many subgroups there are is only known while it runs: at least SUBGROUPS; more find fewer strips each.
// Grid: tiles of rows (folded), tiles of tokens along z.
// Bound: operations; at few tokens the bytes of W. Fragments of tokens that a tile lacks are left out.
// Lost: sums pass through workgroup memory, since what a lane holds of a fragment is the driver's secret.
#import lib/state
#import lib/weights
#import lib/activation
#import format
#import lib/matmul
#import lib/fragments

const STRIPS: u32 = BM / SIDE;
const SLOTS: u32 = STRIPS / SUBGROUPS;    // strips of a subgroup at most
const FRAGMENTS: u32 = BN / SIDE;
// Fragments of tokens that are computed or left out together. More of them share a reading of the rows; an expert has few.
#if GROUPED
const TOGETHER: u32 = 2u;
#else
const TOGETHER: u32 = 4u;
#endif
const TASKS: u32 = (BM + BN) * RUNS;      // runs that a step reads
// From one row to the next: eight more than it holds, so that rows begin in different banks.
const STRIDE: u32 = 16u * RUNS + 8u;
var<workgroup> tile_of_both: array<f16, STRIDE * (BM + BN)>;    // [rows of W, then tokens; STRIDE]
var<workgroup> sums_tile: array<f32, SIDE * BM>;                // [tokens of a fragment, rows]

// Sixteen inputs of a tile's token, within what f16 holds; zero past the last token and column.
fn x16(tile: Tile, n: u32, run: u32) -> mat4x4<f32> {
    var v = mat4x4<f32>();
    let quads = params.columns / 4u;
    if n < tile.count && 4u * run < quads {
        let first = x_row(tile, n);
        let weight = x_weight(tile, n);
        for (var i = 0u; i < 4u; i++) {
            let quad = 4u * run + i;
            let q = clamp(weight * x[first + min(quad, quads - 1u)], vec4(-65504.0), vec4(65504.0));
            v[i] = select(vec4(0.0), q, quad < quads);
        }
    }
    return v;
}

fn put(at: u32, v: mat4x4<f32>) {
    for (var i = 0u; i < 4u; i++) {
        let h = vec4<f16>(v[i]);
        for (var j = 0u; j < 4u; j++) {
            tile_of_both[at + 4u * i + j] = h[j];
        }
    }
}

// The flow is uniform where matrices are used: a tile is its workgroup's. naga's analysis takes what a function returns for
// anything; this switches it off.
@diagnostic(off, derivative_uniformity)
@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(subgroup_id) subgroup: u32, @builtin(num_subgroups) subgroups: u32,
        @builtin(local_invocation_index) tid: u32) {
    if halted() {
        return;
    }
    let tile = tile_of(group, groups);
    if tile.count == 0u {
        return;
    }
    let runs = (params.columns + 15u) / 16u;
    var sums: array<Sums, SLOTS * FRAGMENTS>;
    for (var run = 0u; run < runs; run += RUNS) {
        for (var task = tid; task < TASKS; task += WG) {
            let row = task / RUNS;
            let r = task % RUNS;
            let at = row * STRIDE + 16u * r;
            if row < BM {
                put(at, w16(tile, row, run + r));
            } else {
                put(at, x16(tile, row - BM, run + r));
            }
        }
        workgroupBarrier();
        for (var k = 0u; k < 16u * RUNS; k += SIDE) {
            for (var first = 0u; first < FRAGMENTS; first += TOGETHER) {
                if first * SIDE < tile.count {
                    var tokens = array<Left, TOGETHER>();
                    for (var f = 0u; f < TOGETHER; f++) {
                        tokens[f] = coopLoadT<Left>(&tile_of_both[(BM + (first + f) * SIDE) * STRIDE + k], STRIDE);
                    }
                    for (var s = 0u; s < SLOTS; s++) {
                        let strip = subgroup + s * subgroups;
                        if strip < STRIPS {
                            let rows = coopLoad<Right>(&tile_of_both[strip * SIDE * STRIDE + k], STRIDE);
                            for (var f = 0u; f < TOGETHER; f++) {
                                let at = s * FRAGMENTS + first + f;
                                sums[at] = coopMultiplyAdd(tokens[f], rows, sums[at]);
                            }
                        }
                    }
                }
            }
        }
        workgroupBarrier();
    }
    for (var f = 0u; f < FRAGMENTS; f++) {
        if f * SIDE >= tile.count {
            break;
        }
        for (var s = 0u; s < SLOTS; s++) {
            let strip = subgroup + s * subgroups;
            if strip < STRIPS {
                // naga 30 writes SPIR-V only where all three are named.
                let sum = sums[s * FRAGMENTS + f];
                let at = strip * SIDE;
                let stride = BM;
                coopStoreT(sum, &sums_tile[at], stride);
            }
        }
        workgroupBarrier();
        for (var task = tid; task < SIDE * OUT; task += WG) {
            let m = task % OUT;
            let n = task / OUT;
            let output = tile.first_row + m;
            if f * SIDE + n < tile.count && output < params.outputs {
                let at = n * BM + m;
                finish(tile, y_row(tile, f * SIDE + n), output, sums_tile[at], sums_tile[at + OUT % BM]);
            }
        }
        workgroupBarrier();
    }
}
