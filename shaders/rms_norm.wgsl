// y[t] = x[t] / sqrt(mean(x[t]^2) + eps) * norm, for many tokens; one token's norm is fused into the mat-vec.
// RESIDUAL: y[t] = scale (y[t] + that), for a norm at the end of a branch, which needs all rows of the matrix before it.
// QUANTISE: y is that, rounded to i8 per block of 32 (lib/quantise), for integer dot products; also of one token.
// Grid: one workgroup a row, folded; a large one of a single row.   Bound: bytes of x and y; of a single row its waits.
#import lib/state
const SUMS: u32 = 1u;
#import lib/reduce
#if QUANTISE
#import lib/quantise
#endif

struct Params {
    columns: u32,
    eps: f32,
    x_stride: u32,   // quads from one row of x to the next
    first: u32,      // quad of x
    rows: u32,
    scale: f32,      // of RESIDUAL
    first_group: u32, // of a slice of the grid
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(3) var<storage, read> x: array<vec4<f32>>;          // [tokens, 4 * x_stride]
#if QUANTISE
@group(0) @binding(4) var<storage, read_write> y: array<vec4<u32>>;    // [tokens, columns / 32, 3]
#else
@group(0) @binding(4) var<storage, read_write> y: array<vec4<f32>>;    // [tokens, columns]
#endif
@group(0) @binding(5) var<storage, read> norm: array<vec4<f32>>;       // [columns]

// Quads that an invocation reads before it waits for them.
const AT_ONCE: u32 = 4u;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, invocation: Invocation) {
    let tid = invocation.tid;
    if halted() {
        return;
    }
    let quads = params.columns / 4u;
    let token = params.first_group + group.y * groups.x + group.x;
    if token >= params.rows {
        return;
    }
    let row = token * quads;
    let start = params.first + token * params.x_stride;
    for (var first = tid; first < quads; first += AT_ONCE * WG) {
        var v = array<vec4<f32>, AT_ONCE>();
        for (var k = 0u; k < AT_ONCE; k++) {
            v[k] = x[start + min(first + k * WG, quads - 1u)];
        }
        for (var k = 0u; k < AT_ONCE; k++) {
            acc[0] += select(0.0, dot(v[k], v[k]), first + k * WG < quads);
        }
    }
    reduce(invocation);
    let inverse = inverseSqrt(total(0u) / f32(params.columns) + params.eps);
#if QUANTISE
    for (var block = tid; block < quads / 8u; block += WG) {
        var v = array<vec4<f32>, 8>();
        for (var i = 0u; i < 8u; i++) {
            v[i] = x[start + 8u * block + i] * inverse * norm[8u * block + i];
        }
        let rounded = quantise32(v);
        for (var i = 0u; i < 3u; i++) {
            y[3u * (row / 8u + block) + i] = rounded[i];
        }
    }
#else
    for (var first = tid; first < quads; first += AT_ONCE * WG) {
        var v = array<vec4<f32>, AT_ONCE>();
        for (var k = 0u; k < AT_ONCE; k++) {
            let i = select(first, first + k * WG, first + k * WG < quads);
            v[k] = x[start + i] * inverse * norm[i];
#if RESIDUAL
            v[k] = params.scale * (y[row + i] + v[k]);
#endif
        }
        for (var k = 0u; k < AT_ONCE; k++) {
            if first + k * WG < quads {
                y[row + first + k * WG] = v[k];
            }
        }
    }
#endif
}
