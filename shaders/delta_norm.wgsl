// The end of the gated delta rule in chunks: out = out / sqrt(mean(out^2) + eps) * norm * silu(z), of each value head, in
// place; and the convolution's past is moved on, since short_conv, which reads it, has run.
// Grid: one workgroup a value head, tokens along z.   Bound: bytes of out and z.
#import lib/state
#import lib/sigmoid
const SUMS: u32 = 1u;
#import lib/reduce
#import lib/conv_past

struct Params {
    tokens: u32,
    heads: u32,
    channels: u32,       // of the convolution
    stride: u32,         // of a row of x
    z_at: u32,           // first of z in a row of x
    eps: f32,
    first_z: u32,        // of a slice of the grid
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>;             // [tokens, stride], what the convolution read first
@group(0) @binding(3) var<storage, read> norm: array<f32>;          // [VALUE_DIM]
@group(0) @binding(4) var<storage, read_write> past: array<f32>;    // [TAPS - 1, channels], oldest first
@group(0) @binding(5) var<storage, read_write> out: array<f32>;     // [tokens, heads, VALUE_DIM]

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, invocation: Invocation) {
    let tid = invocation.tid;
    if halted() {
        return;
    }
    let head = group.x;
    let token = params.first_z + group.z;
    let first = (token * params.heads + head) * VALUE_DIM;
    for (var i = tid; i < VALUE_DIM; i += WG) {
        acc[0] += out[first + i] * out[first + i];
    }
    reduce(invocation);
    let inverse = inverseSqrt(total(0u) / f32(VALUE_DIM) + params.eps);
    let gate = token * params.stride + params.z_at + head * VALUE_DIM;
    for (var i = tid; i < VALUE_DIM; i += WG) {
        let z = x[gate + i];
        out[first + i] *= inverse * norm[i] * z * sigmoid(z);
    }
    if token == 0u {
        move_past(head * WG + tid, params.heads * WG, params.channels);
    }
}
