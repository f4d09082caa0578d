// Tiles of a matmul in f32: weights decoded into workgroup memory.
const QUADS: u32 = 4u * RUNS;
var<workgroup> w_tile: array<vec4<f32>, QUADS * BM>;    // [quads, rows]
var<workgroup> x_tile: array<vec4<f32>, QUADS * BN>;    // [quads, tokens]

// Runs `run` .. `run + RUNS` of the tile.
fn stage(tile: Tile, run: u32, tid: u32) {
    for (var task = tid; task < BM * RUNS; task += WG) {
        let m = task % BM;
        let r = task / BM;
        let w = w16(tile, m, run + r);
        for (var i = 0u; i < 4u; i++) {
            w_tile[(4u * r + i) * BM + m] = w[i];
        }
    }
    for (var task = tid; task < BN * QUADS; task += WG) {
        let quad = task % QUADS;
        let n = task / QUADS;
        x_tile[quad * BN + n] = x4(tile, n, 4u * run + quad);
    }
}

fn multiply(tm: u32, tn: u32, sums: ptr<function, array<f32, TM * TN>>) {
    for (var quad = 0u; quad < QUADS; quad++) {
        var v = array<vec4<f32>, TN>();
        for (var j = 0u; j < TN; j++) {
            v[j] = x_tile[quad * BN + tn + j * (BN / TN)];
        }
        for (var i = 0u; i < TM; i++) {
            let w = w_tile[quad * BM + tm + i * THREADS_M];
            for (var j = 0u; j < TN; j++) {
                (*sums)[i * TN + j] += dot(w, v[j]);
            }
        }
    }
}
