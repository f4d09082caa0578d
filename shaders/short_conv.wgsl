// The short causal convolution before a gated delta net (arXiv 2412.06464, section 3.4): each channel of the joint
// projection over its last TAPS inputs, then silu; heads of q and k are divided by their L2 norm, q by sqrt(KEY_DIM) too.
// Inputs from before the step come from `past`; a sequence starts at position 0, with zeros before it.
// Grid: one workgroup a head (q, then k, then v heads), tokens along z.
// Bound: launch in decode; bytes of x and y in prefill. `past` is moved on by delta_net, which runs when all have read it.
#import lib/state
const SUMS: u32 = 1u;
#import lib/reduce

struct Params {
    key_heads: u32,
    value_heads: u32,
    stride: u32,     // of a row of x
    scale: f32,      // of q
    first_z: u32,     // of a slice of the grid
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>;             // [tokens, stride], q, k and v first
@group(0) @binding(3) var<storage, read> past: array<f32>;          // [TAPS - 1, channels], oldest first
@group(0) @binding(4) var<storage, read> taps: array<f32>;          // [TAPS, channels], the newest input's last
@group(0) @binding(5) var<storage, read_write> y: array<f32>;       // [tokens, channels]

// Of q and k: what the L2 norm keeps away from zero.
const EPS: f32 = 1e-6;
const CHANNELS: u32 = max(KEY_DIM, VALUE_DIM);

var<workgroup> convolved: array<f32, CHANNELS>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, invocation: Invocation) {
    let tid = invocation.tid;
    if halted() {
        return;
    }
    let head = group.x;
    let token = params.first_z + group.z;
    let keyed = 2u * params.key_heads;
    let is_v = head >= keyed;
    let channels = keyed * KEY_DIM + params.value_heads * VALUE_DIM;
    let first = select(head * KEY_DIM, keyed * KEY_DIM + (head - keyed) * VALUE_DIM, is_v);
    let dim = select(KEY_DIM, VALUE_DIM, is_v);
    for (var i = tid; i < dim; i += WG) {
        let channel = first + i;
        var sum = 0.0;
        for (var tap = 0u; tap < TAPS; tap++) {
            let at = token + tap;    // TAPS - 1 before the input's own token
            var input = 0.0;
            if at + 1u >= TAPS {
                input = x[(at + 1u - TAPS) * params.stride + channel];
            } else if state.position + at + 1u >= TAPS {
                input = past[at * channels + channel];
            }
            sum += taps[tap * channels + channel] * input;
        }
        // silu; a driver may assume that no infinity occurs.
        let value = sum / (1.0 + exp(min(-sum, 80.0)));
        convolved[i] = value;
        acc[0] += value * value;
    }
    reduce(invocation);
    var scale = 1.0;
    if !is_v {
        scale = inverseSqrt(total(0u) + EPS) * select(1.0, params.scale, head < params.key_heads);
    }
    for (var i = tid; i < dim; i += WG) {
        y[token * channels + first + i] = convolved[i] * scale;
    }
}
