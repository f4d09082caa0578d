// The gated delta rule in chunks, first half: what a chunk of CHUNK tokens does by itself, whatever state it meets (the WY
// form, arXiv 2406.06484, section 3; with decay 2412.06464, section 3.3). Of a value head, with d(t, i) the product of the decays
// of tokens i + 1 .. t, which is never above 1 and never divides:
//   A[t, i] = beta_t d(t, i) (k_t . k_i) of i < t;   T = (1 + A)^-1 diag(beta);   M[t, i] = d(t, i) (q_t . k_i) of i <= t
// so that from a state S on, R[t] = v_t - d(t, start) k_t S, the changes are T R, and delta_states does the rest. T is found
// by rows downwards, a column an invocation. Tokens past the last one write nothing (beta 0) and keep all (decay 1).
// Grid: one workgroup of 64 a key head, which goes through its value heads; chunks along z. An invocation has 4 x 4 products.
// Bound: operations, 4 KEY_DIM CHUNK^2 a key head and chunk; a tenth of what delta_states takes.
#import lib/state
#import lib/sigmoid
#import lib/delta_chunk

struct Params {
    first: u32,          // token of this dispatch, and the end of its tokens
    end: u32,
    heads: u32,
    key_heads: u32,
    stride: u32,         // of a row of x
    b_at: u32,           // first of x_b and x_a in a row of x
    a_at: u32,
    first_z: u32,        // of a slice of the grid
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>;                // [tokens, stride]
@group(0) @binding(3) var<storage, read> qkv: array<vec4<f32>>;        // [tokens, channels]: q, k and v heads
@group(0) @binding(4) var<storage, read> gates: array<vec2<f32>>;      // [heads]: a, dt
@group(0) @binding(5) var<storage, read_write> chunks: array<f32>;     // [chunks, heads, 4 * CHUNK_QUADS]: lib/delta_chunk

const QUADS: u32 = KEY_DIM / 4u;

var<workgroup> decays: array<f32, CHUNK>;
var<workgroup> betas: array<f32, CHUNK>;
var<workgroup> kept: array<f32, CHUNK * CHUNK>;                 // d(t, i)
var<workgroup> lower: array<vec4<f32>, CHUNK * ROW_QUADS>;      // A
var<workgroup> solved: array<vec4<f32>, ROW_QUADS * CHUNK>;     // columns of (1 + A)^-1, four rows of one beside each other

fn value_head(key_head: u32, n: u32) -> u32 {
#if TILED
    return n * params.key_heads + key_head;
#else
    return key_head * (params.heads / params.key_heads) + n;
#endif
}

// Column `j` of (1 + A)^-1, times beta_j.
fn solve(j: u32, at: u32) {
    for (var rows = 0u; rows < ROW_QUADS; rows++) {
        let ones = vec4(4u * rows) + vec4(0u, 1u, 2u, 3u) == vec4(j);
        var v = select(vec4(0.0), vec4(1.0), ones);
        let a = 4u * rows * ROW_QUADS;
        for (var i = 0u; i < rows; i++) {
            let above = solved[i * CHUNK + j];
            v -= vec4(dot(lower[a + i], above), dot(lower[a + ROW_QUADS + i], above),
                dot(lower[a + 2u * ROW_QUADS + i], above), dot(lower[a + 3u * ROW_QUADS + i], above));
        }
        v.y -= lower[a + ROW_QUADS + rows].x * v.x;
        v.z -= dot(lower[a + 2u * ROW_QUADS + rows].xy, v.xy);
        v.w -= dot(lower[a + 3u * ROW_QUADS + rows].xyz, v.xyz);
        solved[rows * CHUNK + j] = v;
        let scaled = v * betas[j];
        let out = at + 4u * rows * CHUNK + j;
        chunks[out] = scaled.x;
        chunks[out + CHUNK] = scaled.y;
        chunks[out + 2u * CHUNK] = scaled.z;
        chunks[out + 3u * CHUNK] = scaled.w;
    }
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
    if halted() {
        return;
    }
    let key_head = group.x;
    let chunk = params.first_z + group.z;
    let first = params.first + chunk * CHUNK;
    let count = min(CHUNK, params.end - first);
    let share = params.heads / params.key_heads;
    let channel_quads = (2u * params.key_heads * KEY_DIM + params.heads * VALUE_DIM) / 4u;

    // Products of rows t = row .. row + 3 with columns i = 4 column .. 4 column + 3; rows past the last token are that one again.
    let row = tid / ROW_QUADS * 4u;
    let column = tid % ROW_QUADS;
    var queries: array<u32, 4>;
    var keys: array<u32, 4>;
    var columns: array<u32, 4>;
    for (var i = 0u; i < 4u; i++) {
        queries[i] = (first + min(row + i, count - 1u)) * channel_quads + key_head * QUADS;
        keys[i] = queries[i] + params.key_heads * QUADS;
        columns[i] = (first + min(4u * column + i, count - 1u)) * channel_quads + (params.key_heads + key_head) * QUADS;
    }
    var kk: array<vec4<f32>, 4>;
    var qk: array<vec4<f32>, 4>;
    for (var quad = 0u; quad < QUADS; quad++) {
        let k = transpose(mat4x4(qkv[columns[0] + quad], qkv[columns[1] + quad], qkv[columns[2] + quad],
            qkv[columns[3] + quad]));
        for (var i = 0u; i < 4u; i++) {
            kk[i] = add_product(kk[i], k, qkv[keys[i] + quad]);
            qk[i] = add_product(qk[i], k, qkv[queries[i] + quad]);
        }
    }
    for (var n = 0u; n < share; n++) {
        let head = value_head(key_head, n);
        let at = (chunk * params.heads + head) * 4u * CHUNK_QUADS;
        if tid < CHUNK {
            decays[tid] = 1.0;
            betas[tid] = 0.0;
            if tid < count {
                let token = (first + tid) * params.stride + head;
                let gate = gates[head];
                decays[tid] = exp(max(gate.x * softplus(x[token + params.a_at] + gate.y), -80.0));
                betas[tid] = sigmoid(x[token + params.b_at]);
            }
        }
        workgroupBarrier();
        if tid < CHUNK {
            var product = 1.0;
            for (var t = 0u; t < CHUNK; t++) {
                product *= select(1.0, decays[t], t > tid);
                kept[t * CHUNK + tid] = select(0.0, product, t >= tid);
            }
            chunks[at + 4u * TO_END + tid] = product;
        } else if tid == CHUNK {
            var product = 1.0;
            for (var t = 0u; t < CHUNK; t++) {
                product *= decays[t];
                chunks[at + 4u * FROM_START + t] = product;
            }
        }
        workgroupBarrier();
        for (var i = 0u; i < 4u; i++) {
            let t = row + i;
            let d = t * CHUNK + 4u * column;
            let decay = vec4(kept[d], kept[d + 1u], kept[d + 2u], kept[d + 3u]);
            let before = vec4(4u * column) + vec4(0u, 1u, 2u, 3u) < vec4(t);
            lower[t * ROW_QUADS + column] = select(vec4(0.0), betas[t] * decay * kk[i], before);
            let m = decay * qk[i];
            let out = at + 4u * M_AT + d;
            chunks[out] = m.x;
            chunks[out + 1u] = m.y;
            chunks[out + 2u] = m.z;
            chunks[out + 3u] = m.w;
        }
        workgroupBarrier();
        if tid < CHUNK {
            solve(tid, at);
        }
        workgroupBarrier();
    }
}
