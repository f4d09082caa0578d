// Tiles of a matmul in integer dot products: the integers of 16 weights and of 16 rounded inputs take a quarter of the
// workgroup memory that they take in f32, and their scales half as much again.
#import lib/quantised

var<workgroup> w_tile: array<vec4<u32>, RUNS * BM>;      // [runs, rows]
var<workgroup> w_scales: array<vec2<f32>, RUNS * BM>;    // [runs, rows]: scale, offset
var<workgroup> x_tile: array<vec4<u32>, RUNS * BN>;      // [runs, tokens]
var<workgroup> x_scales: array<vec2<f32>, RUNS * BN>;    // [runs, tokens]: scale, scale times sum

// Runs `run` .. `run + RUNS` of the tile; zero past the last column and token.
fn stage(tile: Tile, run: u32, tid: u32) {
    let runs = params.columns / 16u;
    for (var task = tid; task < BM * RUNS; task += WG) {
        let m = task % BM;
        let r = task / BM;
        var w = Quants();
        if run + r < runs {
            let at = w_row(tile, m);
            w = quants16(at, at + params.tail_words, run + r);
        }
        w_tile[task] = w.q;
        w_scales[task] = vec2(w.scale, w.offset);
    }
    for (var task = tid; task < BN * RUNS; task += WG) {
        let r = task % RUNS;
        let n = task / RUNS;
        var v = Quantised();
        if n < tile.count && run + r < runs {
            v = quantised16(x_row(tile, n), run + r);
            let weight = x_weight(tile, n);
            v = Quantised(v.q, weight * v.scale, weight * v.sum);
        }
        x_tile[r * BN + n] = v.q;
        x_scales[r * BN + n] = vec2(v.scale, v.sum);
    }
}

fn multiply(tm: u32, tn: u32, sums: ptr<function, array<f32, TM * TN>>) {
    for (var r = 0u; r < RUNS; r++) {
        var v = array<Quantised, TN>();
        for (var j = 0u; j < TN; j++) {
            let at = r * BN + tn + j * (BN / TN);
            v[j] = Quantised(x_tile[at], x_scales[at].x, x_scales[at].y);
        }
        for (var i = 0u; i < TM; i++) {
            let at = r * BM + tm + i * THREADS_M;
            let w = Quants(w_tile[at], w_scales[at].x, w_scales[at].y);
            for (var j = 0u; j < TN; j++) {
                (*sums)[i * TN + j] += integer_dot16(w, v[j]);
            }
        }
    }
}
