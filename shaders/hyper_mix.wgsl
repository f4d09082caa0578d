// Hyper-connections (arXiv 2409.19606), as DeepSeek-V4 has them: four residual streams, which a matrix over their flat row
// mixes before each half of a layer. This kernel moves the streams on by what the half before gave, and multiplies: sums
// over a slice of the columns, which hyper_read adds up. ROWS: 24 before a half, 4 before the output head.
// START: the streams are copies of x, the embedding; else new[k] = post[k] x + sum over j of comb[j][k] old[j].
// Grid: quads of a stream / WG workgroups; tokens / TOKENS along z, which share a reading of the matrix.
// Bound: bytes of the matrix in decode; rows cut into slices, since four rows a workgroup would be six workgroups.
// Lost, by RADV's gfx1151 code: four tokens a workgroup, whose 100 sums an invocation lie in 12.5 KiB of scratch memory.
#import lib/state
const OF_TOKEN: u32 = ROWS + 1u;    // the last is the sum of squares
const SUMS: u32 = TOKENS * OF_TOKEN;
#import lib/reduce

struct Params {
    tokens: u32,
    quads: u32,      // of a stream
    slices: u32,
    first_z: u32,    // of a slice of the grid
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<vec4<f32>>;                // [tokens, columns]
@group(0) @binding(3) var<storage, read_write> streams: array<vec4<f32>>;    // [tokens, 4, columns]
@group(0) @binding(4) var<storage, read> matrix: array<vec4<f32>>;           // [ROWS, 4, columns]
@group(0) @binding(5) var<storage, read_write> partials: array<f32>;         // [tokens, slices, ROWS + 1]
#if !START
@group(0) @binding(6) var<storage, read> mix: array<vec4<f32>>;              // [tokens, 5]: post, then comb by rows
#endif

// The streams of a token in one quad of columns, moved on.
fn moved(token: u32, column: u32) -> mat4x4<f32> {
    let at = 4u * token * params.quads + column;
    let y = x[token * params.quads + column];
#if START
    let held = mat4x4(y, y, y, y);
#else
    let old = mat4x4(streams[at], streams[at + params.quads], streams[at + 2u * params.quads],
        streams[at + 3u * params.quads]);
    let comb = mat4x4(mix[5u * token + 1u], mix[5u * token + 2u], mix[5u * token + 3u], mix[5u * token + 4u]);
    let post = mix[5u * token];
    // Columns of `old` are streams, columns of `comb` its rows.
    let mixed = old * transpose(comb);
    let held = mat4x4(mixed[0] + post.x * y, mixed[1] + post.y * y, mixed[2] + post.z * y, mixed[3] + post.w * y);
#endif
    for (var k = 0u; k < 4u; k++) {
        streams[at + k * params.quads] = held[k];
    }
    return held;
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, invocation: Invocation) {
    let tid = invocation.tid;
    if halted() {
        return;
    }
    let column = group.x * WG + tid;
    let first = (params.first_z + group.z) * TOKENS;
    if column < params.quads {
        var held: array<mat4x4<f32>, TOKENS>;
        for (var t = 0u; t < TOKENS; t++) {
            if first + t < params.tokens {
                held[t] = moved(first + t, column);
            }
            let h = held[t];
            acc[t * OF_TOKEN + ROWS] = (dot(h[0], h[0]) + dot(h[1], h[1])) + (dot(h[2], h[2]) + dot(h[3], h[3]));
        }
        for (var r = 0u; r < ROWS; r++) {
            let at = 4u * r * params.quads + column;
            let w0 = matrix[at];
            let w1 = matrix[at + params.quads];
            let w2 = matrix[at + 2u * params.quads];
            let w3 = matrix[at + 3u * params.quads];
            for (var t = 0u; t < TOKENS; t++) {
                let h = held[t];
                acc[t * OF_TOKEN + r] = (dot(w0, h[0]) + dot(w1, h[1])) + (dot(w2, h[2]) + dot(w3, h[3]));
            }
        }
    }
    reduce(invocation);
    for (var i = tid; i < SUMS; i += WG) {
        let token = first + i / OF_TOKEN;
        if token < params.tokens {
            partials[(token * params.slices + group.x) * OF_TOKEN + i % OF_TOKEN] = total(i);
        }
    }
}
