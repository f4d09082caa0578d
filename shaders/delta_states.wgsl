// The gated delta rule in chunks, second half: the state S [KEY_DIM, VALUE_DIM] of a value head goes through the chunks, with
// what delta_chunks made of each (T, M and decays from the chunk's start and to its end):
//   D = T (V - from_start K S);   out = from_start Q S + M D;   S = from_start[last] S + (to_end K)^T D
// delta_norm finishes `out`.
// Grid: one workgroup of 64 for 16 columns of a value head, which depend on no others. S lies in workgroup memory for the
// products with K and Q, and in registers, up to 8 keys by 4 columns an invocation, to be added to: 14 KiB at KEY_DIM 128.
// Bound: operations, 6 KEY_DIM + 4 CHUNK a column and token, no fewer than token by token (delta_net); what is won is 32 tokens
// a step, less than half of the reads of workgroup memory, and eight workgroups a head. RADV's gfx1151 code at 128 x 128: 252 VGPRs,
// no spill, 5,300 vector instructions and 22 waits for memory a chunk.
// Lost: loops of one load a round, 70 waits a chunk. Not taken: W = T K and U = T V of the papers, 19 MB between the kernels
// instead of 4 at 512 tokens of 32 heads, to save a product of 32 x 32.
#import lib/state
#import lib/delta_chunk

struct Params {
    first: u32,          // token of this dispatch, and the end of its tokens
    end: u32,
    heads: u32,
    key_heads: u32,
    first_group: u32,    // of a slice of the grid
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(3) var<storage, read> qkv: array<vec4<f32>>;            // [tokens, channels]: q, k and v heads
@group(0) @binding(4) var<storage, read> chunks: array<vec4<f32>>;         // [chunks, heads, CHUNK_QUADS]: lib/delta_chunk
@group(0) @binding(5) var<storage, read_write> delta: array<vec4<f32>>;    // [heads, VALUE_DIM, KEY_DIM]
@group(0) @binding(6) var<storage, read_write> out: array<vec4<f32>>;      // [tokens, heads, VALUE_DIM]

const QUADS: u32 = KEY_DIM / 4u;
const VALUE_QUADS: u32 = VALUE_DIM / 4u;
// Quads of columns of a workgroup, and invocations of each, which share its tokens and its keys.
const SLICE: u32 = 4u;
const SHARES: u32 = 16u;
const SLICES: u32 = (VALUE_QUADS + SLICE - 1u) / SLICE;
const OWN_QUADS: u32 = (QUADS + SHARES - 1u) / SHARES;
// Rounds of a loop whose loads are in flight together.
const QUADS_AT_ONCE: u32 = select(1u, 4u, QUADS % 4u == 0u);
const TOKENS_AT_ONCE: u32 = 4u;

var<workgroup> states: array<vec4<f32>, KEY_DIM * SLICE>;      // [KEY_DIM, SLICE]
var<workgroup> misses: array<vec4<f32>, CHUNK * SLICE>;        // V - from_start K S
var<workgroup> changes: array<vec4<f32>, CHUNK * SLICE>;       // D
var<workgroup> lasting: array<vec4<f32>, CHUNK * SLICE>;       // to_end D

// Four keys of a quad of columns, for the products of all invocations.
fn share_quad(quad: u32, lane: u32, s: mat4x4<f32>) {
    let at = 4u * quad * SLICE + lane;
    states[at] = s[0];
    states[at + SLICE] = s[1];
    states[at + 2u * SLICE] = s[2];
    states[at + 3u * SLICE] = s[3];
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) tid: u32) {
    if halted() {
        return;
    }
    let linear = params.first_group + group.x;
    let head = linear / SLICES;
#if TILED
    let key_head = head % params.key_heads;
#else
    let key_head = head / (params.heads / params.key_heads);
#endif
    let channel_quads = (2u * params.key_heads * KEY_DIM + params.heads * VALUE_DIM) / 4u;
    let q_at = key_head * QUADS;
    let k_at = (params.key_heads + key_head) * QUADS;
    let share = tid / SLICE;
    let lane = tid % SLICE;
    let column = linear % SLICES * SLICE + lane;      // quad of the head's
    // Columns past the last are those of the last again, and not written.
    let mine = min(column, VALUE_QUADS - 1u);
    let v_at = 2u * params.key_heads * QUADS + head * VALUE_QUADS + mine;

    // A sequence starts at position 0, with nothing.
    var own: array<mat4x4<f32>, OWN_QUADS>;           // [key, column]
    let held = (head * VALUE_DIM + 4u * mine) * QUADS;
    for (var i = 0u; i < OWN_QUADS; i++) {
        let quad = share + i * SHARES;
        if state.position + params.first > 0u && quad < QUADS {
            let s = held + quad;
            own[i] = transpose(mat4x4(delta[s], delta[s + QUADS], delta[s + 2u * QUADS], delta[s + 3u * QUADS]));
        }
        if quad < QUADS {
            share_quad(quad, lane, own[i]);
        }
    }
    workgroupBarrier();
    for (var first = params.first; first < params.end; first += CHUNK) {
        let count = min(CHUNK, params.end - first);
        let chunk = ((first - params.first) / CHUNK * params.heads + head) * CHUNK_QUADS;
        // An invocation has two tokens; those past the last are that one again, whose column of T is zero.
        let tokens = vec2(share, share + SHARES);
        let rows = (first + min(tokens, vec2(count - 1u))) * channel_quads;
        var recalled = array<vec4<f32>, 2>();
        var read = array<vec4<f32>, 2>();
        for (var quad = 0u; quad < QUADS; quad += QUADS_AT_ONCE) {
            for (var i = 0u; i < QUADS_AT_ONCE; i++) {
                let at = 4u * (quad + i) * SLICE + lane;
                let s = mat4x4(states[at], states[at + SLICE], states[at + 2u * SLICE], states[at + 3u * SLICE]);
                recalled[0] = add_product(recalled[0], s, qkv[rows.x + k_at + quad + i]);
                recalled[1] = add_product(recalled[1], s, qkv[rows.y + k_at + quad + i]);
                read[0] = add_product(read[0], s, qkv[rows.x + q_at + quad + i]);
                read[1] = add_product(read[1], s, qkv[rows.y + q_at + quad + i]);
            }
        }
        let in_quad = tokens.x % 4u;
        let from_start = vec2(chunks[chunk + FROM_START + tokens.x / 4u][in_quad],
            chunks[chunk + FROM_START + tokens.y / 4u][in_quad]);
        let to_end = vec2(chunks[chunk + TO_END + tokens.x / 4u][in_quad], chunks[chunk + TO_END + tokens.y / 4u][in_quad]);
        misses[tokens.x * SLICE + lane] = qkv[rows.x + v_at] - from_start.x * recalled[0];
        misses[tokens.y * SLICE + lane] = qkv[rows.y + v_at] - from_start.y * recalled[1];
        workgroupBarrier();
        var change = array<vec4<f32>, 2>();
        let t_rows = chunk + tokens * ROW_QUADS;
        for (var i = 0u; i < ROW_QUADS; i++) {
            let at = 4u * i * SLICE + lane;
            let m = mat4x4(misses[at], misses[at + SLICE], misses[at + 2u * SLICE], misses[at + 3u * SLICE]);
            change[0] = add_product(change[0], m, chunks[t_rows.x + i]);
            change[1] = add_product(change[1], m, chunks[t_rows.y + i]);
        }
        changes[tokens.x * SLICE + lane] = change[0];
        changes[tokens.y * SLICE + lane] = change[1];
        lasting[tokens.x * SLICE + lane] = to_end.x * change[0];
        lasting[tokens.y * SLICE + lane] = to_end.y * change[1];
        workgroupBarrier();
        read[0] *= from_start.x;
        read[1] *= from_start.y;
        for (var i = 0u; i < ROW_QUADS; i++) {
            let at = 4u * i * SLICE + lane;
            let m = mat4x4(changes[at], changes[at + SLICE], changes[at + 2u * SLICE], changes[at + 3u * SLICE]);
            read[0] = add_product(read[0], m, chunks[t_rows.x + M_AT + i]);
            read[1] = add_product(read[1], m, chunks[t_rows.y + M_AT + i]);
        }
        for (var i = 0u; i < 2u; i++) {
            if tokens[i] < count && column < VALUE_QUADS {
                out[((first + tokens[i]) * params.heads + head) * VALUE_QUADS + column] = read[i];
            }
        }
        let through = chunks[chunk + FROM_START + ROW_QUADS - 1u].w;
        for (var i = 0u; i < OWN_QUADS; i++) {
            own[i] *= through;
        }
        for (var tile = 0u; tile < count; tile += TOKENS_AT_ONCE) {
            for (var i = 0u; i < OWN_QUADS * TOKENS_AT_ONCE; i++) {
                let t = tile + i / OWN_QUADS;
                let row = (first + min(t, count - 1u)) * channel_quads + k_at;
                let k = qkv[row + min(share + i % OWN_QUADS * SHARES, QUADS - 1u)];
                let d = lasting[t * SLICE + lane];
                own[i % OWN_QUADS][0] += k.x * d;
                own[i % OWN_QUADS][1] += k.y * d;
                own[i % OWN_QUADS][2] += k.z * d;
                own[i % OWN_QUADS][3] += k.w * d;
            }
        }
        for (var i = 0u; i < OWN_QUADS; i++) {
            let quad = share + i * SHARES;
            if quad < QUADS {
                share_quad(quad, lane, own[i]);
            }
        }
        workgroupBarrier();
    }
    for (var i = 0u; i < OWN_QUADS; i++) {
        let quad = share + i * SHARES;
        if quad < QUADS && column < VALUE_QUADS {
            let columns = transpose(own[i]);
            let s = held + quad;
            delta[s] = columns[0];
            delta[s + QUADS] = columns[1];
            delta[s + 2u * QUADS] = columns[2];
            delta[s + 3u * QUADS] = columns[3];
        }
    }
}
