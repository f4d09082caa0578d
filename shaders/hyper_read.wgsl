// What a half of a layer reads of the four residual streams, x = sum over k of pre[k] stream[k], and how its result will
// join them (hyper_mix): post, and a matrix between the streams that Sinkhorn's iterations bring near to doubly stochastic.
// The products m of the flat streams' norm with the matrix come in slices:
//   pre = sigmoid(scale m + base) + eps, post = 2 sigmoid(scale m + base), comb = softmax over rows + eps, then columns, rows,
//   columns, .. divided by their sums + eps.   HEAD: there is pre alone.
// Grid: quads of a stream / WG workgroups, tokens along z. All add the slices up; the first of a token finds post and comb.
// Bound: launch, and the chain of iterations, some 40 steps of a dozen instructions each.
#import lib/state
#if HEAD
const ROWS: u32 = 4u;
#else
const ROWS: u32 = 24u;
#endif

struct Params {
    quads: u32,         // of a stream
    slices: u32,
    eps: f32,           // of the norm
    mix_eps: f32,
    iterations: u32,
    first_z: u32,       // of a slice of the grid
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> streams: array<vec4<f32>>;      // [tokens, 4, columns]
@group(0) @binding(3) var<storage, read> partials: array<f32>;           // [tokens, slices, ROWS + 1]
@group(0) @binding(4) var<storage, read> base: array<f32>;               // [ROWS]
@group(0) @binding(5) var<storage, read> scale: array<f32>;              // [3], of HEAD [1]
@group(0) @binding(6) var<storage, read_write> x: array<vec4<f32>>;      // [tokens, columns]
#if !HEAD
@group(0) @binding(7) var<storage, read_write> mix: array<vec4<f32>>;    // [tokens, 5]: post, then comb by rows
#endif

// Slices that are read before the first of them is waited for.
const AT_ONCE: u32 = 8u;
var<workgroup> sums: array<f32, ROWS + 1u>;

// Four of the products, from `row` on, of the part that `scale[part]` scales.
fn scaled(row: u32, part: u32) -> vec4<f32> {
    let inverse = inverseSqrt(sums[ROWS] / f32(16u * params.quads) + params.eps);
    let m = vec4(sums[row], sums[row + 1u], sums[row + 2u], sums[row + 3u]);
    return m * (inverse * scale[part]) + vec4(base[row], base[row + 1u], base[row + 2u], base[row + 3u]);
}

fn sigmoid(v: vec4<f32>) -> vec4<f32> {
    // A driver may assume that no infinity occurs.
    return 1.0 / (1.0 + exp(min(-v, vec4(80.0))));
}

#if !HEAD
fn softmax(v: vec4<f32>) -> vec4<f32> {
    let e = exp(v - max(max(v.x, v.y), max(v.z, v.w)));
    return e / dot(e, vec4(1.0)) + params.mix_eps;
}

fn columns_divided(m: mat4x4<f32>) -> mat4x4<f32> {
    let by = 1.0 / (m[0] + m[1] + m[2] + m[3] + params.mix_eps);
    return mat4x4(m[0] * by, m[1] * by, m[2] * by, m[3] * by);
}

fn row_divided(v: vec4<f32>) -> vec4<f32> {
    return v / (dot(v, vec4(1.0)) + params.mix_eps);
}
#endif

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
    if halted() {
        return;
    }
    let token = params.first_z + group.z;
    for (var r = tid; r <= ROWS; r += WG) {
        var sum = 0.0;
        for (var s = 0u; s < params.slices; s += AT_ONCE) {
            for (var i = 0u; i < AT_ONCE; i++) {
                let part = partials[(token * params.slices + min(s + i, params.slices - 1u)) * (ROWS + 1u) + r];
                sum += select(0.0, part, s + i < params.slices);
            }
        }
        sums[r] = sum;
    }
    workgroupBarrier();
    let column = group.x * WG + tid;
    if column < params.quads {
        let pre = sigmoid(scaled(0u, 0u)) + params.mix_eps;
        let at = 4u * token * params.quads + column;
        x[token * params.quads + column] = pre.x * streams[at] + pre.y * streams[at + params.quads]
            + pre.z * streams[at + 2u * params.quads] + pre.w * streams[at + 3u * params.quads];
    }
#if !HEAD
    if group.x == 0u && tid == 0u {
        mix[5u * token] = 2.0 * sigmoid(scaled(4u, 1u));
        var comb = mat4x4(softmax(scaled(8u, 2u)), softmax(scaled(12u, 2u)), softmax(scaled(16u, 2u)),
            softmax(scaled(20u, 2u)));
        comb = columns_divided(comb);
        for (var i = 1u; i < params.iterations; i++) {
            comb = columns_divided(mat4x4(row_divided(comb[0]), row_divided(comb[1]), row_divided(comb[2]),
                row_divided(comb[3])));
        }
        for (var j = 0u; j < 4u; j++) {
            mix[5u * token + 1u + j] = comb[j];
        }
    }
#endif
}
