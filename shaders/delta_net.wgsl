// The gated delta rule (arXiv 2412.06464) over the tokens of a step, in order, and the gated norm of its output. Of each
// value head, with its state S [KEY_DIM, VALUE_DIM], q and k of length KEY_DIM and v of length VALUE_DIM:
//   S = e^(a softplus(x_a + dt)) S;  S += k (sigmoid(x_b) (v - k S))^T;  o = q S
//   out = o / sqrt(mean(o^2) + eps) * norm * silu(z)
// TILED: value heads repeat the key heads in turn; else those of one key head follow one another.
// It moves the convolution's past on, too: short_conv, which reads it, has run.
// Grid: one workgroup a value head, which goes through the tokens TILE by TILE. An invocation keeps a column of S in
// registers from the first token to the last, so S is read and written once, and no sum crosses invocations but the norm's.
// A column lies in one piece. Lost: rows in one piece, 1,798 vector instructions at 128 x 128 instead of 1,556.
// Decode is the same with one token.   Bound: bytes of S in decode; in prefill the chain of tokens, 4 KEY_DIM operations each.
// RADV's gfx1151 code at 128 x 128: loops over the column unroll, 252 VGPRs, no spill.
// Steps of some tokens and more go in chunks (delta_chunks, delta_states, delta_norm), which win there: on lavapipe by 1.4 at
// 512 tokens, on gfx1151 by prediction 1.4 to 2, since a token here reads 66 quads of workgroup memory an invocation and all
// heads are 64 waves for 80 SIMDs (docs/performance.md).
#import lib/state
#import lib/sigmoid
#import lib/conv_past

struct Params {
    tokens: u32,         // of the step
    first: u32,          // of this dispatch, and the end of its tokens
    end: u32,
    heads: u32,
    key_heads: u32,
    stride: u32,         // of a row of x
    z_at: u32,           // first of z, x_b and x_a in a row of x
    b_at: u32,
    a_at: u32,
    eps: f32,
    first_group: u32, // of a slice of the grid
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>;                   // [tokens, stride], what the convolution read first
@group(0) @binding(3) var<storage, read> qkv: array<f32>;                 // [tokens, channels]: q, k and v heads
@group(0) @binding(4) var<storage, read> gates: array<vec2<f32>>;         // [heads]: a, dt
@group(0) @binding(5) var<storage, read> norm: array<f32>;                // [VALUE_DIM]
@group(0) @binding(6) var<storage, read_write> delta: array<vec4<f32>>;   // [heads, VALUE_DIM, KEY_DIM]
@group(0) @binding(7) var<storage, read_write> past: array<f32>;          // [TAPS - 1, channels], oldest first
@group(0) @binding(8) var<storage, read_write> out: array<f32>;           // [tokens, heads, VALUE_DIM]

const QUADS: u32 = KEY_DIM / 4u;
const HALF: u32 = QUADS / 2u;
const LANES: u32 = VALUE_DIM / TILE;    // invocations that sum the squares of a token

var<workgroup> queries: array<vec4<f32>, TILE * QUADS>;
var<workgroup> keys: array<vec4<f32>, TILE * QUADS>;
var<workgroup> decays: array<f32, TILE>;
var<workgroup> betas: array<f32, TILE>;
var<workgroup> outputs: array<f32, TILE * VALUE_DIM>;
var<workgroup> squares: array<f32, TILE * LANES>;

fn quad(i: u32) -> vec4<f32> {
    return vec4(qkv[i], qkv[i + 1u], qkv[i + 2u], qkv[i + 3u]);
}

@compute @workgroup_size(VALUE_DIM)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
    if halted() {
        return;
    }
    let head = params.first_group + group.x;
    let channels = 2u * params.key_heads * KEY_DIM + params.heads * VALUE_DIM;
#if TILED
    let key_head = head % params.key_heads;
#else
    let key_head = head / (params.heads / params.key_heads);
#endif
    let k_at = (params.key_heads + key_head) * KEY_DIM;
    let v_at = 2u * params.key_heads * KEY_DIM + head * VALUE_DIM + tid;
    let held = (head * VALUE_DIM + tid) * QUADS;

    // A sequence starts at position 0, with nothing.
    var column: array<vec4<f32>, QUADS>;
    if state.position + params.first > 0u {
        for (var i = 0u; i < QUADS; i++) {
            column[i] = delta[held + i];
        }
    }
    // 0. A key is the same for all invocations, so RADV keeps it in scalar registers, of which there are too few (47 spilled);
    // an address that it cannot tell to be the same takes vector registers, of which there are too few for all of it (10 spilled).
    let none = select(0u, 1u, tid >= params.stride);
    for (var tile = params.first; tile < params.end; tile += TILE) {
        let count = min(TILE, params.end - tile);
        for (var i = tid; i < count * QUADS; i += VALUE_DIM) {
            let at = (tile + i / QUADS) * channels + 4u * (i % QUADS);
            queries[i] = quad(at + key_head * KEY_DIM);
            keys[i] = quad(at + k_at);
        }
        if tid < count {
            let row = (tile + tid) * params.stride + head;
            let gate = gates[head];
            decays[tid] = exp(max(gate.x * softplus(x[row + params.a_at] + gate.y), -80.0));
            betas[tid] = sigmoid(x[row + params.b_at]);
        }
        workgroupBarrier();
        for (var t = 0u; t < count; t++) {
            var recalled = vec4(0.0);
            for (var i = 0u; i < HALF; i++) {
                column[i] *= decays[t];
                recalled += keys[t * QUADS + i] * column[i];
            }
            for (var i = HALF; i < QUADS; i++) {
                column[i] *= decays[t];
                recalled += keys[none + t * QUADS + i] * column[i];
            }
            let v = qkv[(tile + t) * channels + v_at];
            let change = betas[t] * (v - (recalled.x + recalled.y + recalled.z + recalled.w));
            var sum = vec4(0.0);
            for (var i = 0u; i < HALF; i++) {
                column[i] += keys[t * QUADS + i] * change;
                sum += queries[t * QUADS + i] * column[i];
            }
            for (var i = HALF; i < QUADS; i++) {
                column[i] += keys[none + t * QUADS + i] * change;
                sum += queries[t * QUADS + i] * column[i];
            }
            outputs[t * VALUE_DIM + tid] = sum.x + sum.y + sum.z + sum.w;
        }
        workgroupBarrier();
        if tid < count * LANES {
            let first = tid / LANES * VALUE_DIM;
            var sum = 0.0;
            for (var i = tid % LANES; i < VALUE_DIM; i += LANES) {
                sum += outputs[first + i] * outputs[first + i];
            }
            squares[tid] = sum;
        }
        workgroupBarrier();
        for (var t = 0u; t < count; t++) {
            var sum = 0.0;
            for (var l = 0u; l < LANES; l++) {
                sum += squares[t * LANES + l];
            }
            let z = x[(tile + t) * params.stride + params.z_at + head * VALUE_DIM + tid];
            let normed = outputs[t * VALUE_DIM + tid] * inverseSqrt(sum / f32(VALUE_DIM) + params.eps) * norm[tid];
            out[((tile + t) * params.heads + head) * VALUE_DIM + tid] = normed * z * sigmoid(z);
        }
    }
    for (var i = 0u; i < QUADS; i++) {
        delta[held + i] = column[i];
    }
    if params.end == params.tokens {
        move_past(head * VALUE_DIM + tid, params.heads * VALUE_DIM, channels);
    }
}
