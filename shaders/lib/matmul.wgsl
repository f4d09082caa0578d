// What a tiled matmul reads and writes, however it multiplies: its bindings, the rows and tokens of a tile, and what becomes
// of a sum. A tile is BM rows of W by BN tokens; of SWIGLU half of its rows are gate rows, half the up rows of the same
// outputs.
struct Params {
    outputs: u32,
    columns: u32,
    row_words: u32,
    tail_words: u32,
    tokens: u32,         // rows of X
    y_stride: u32,       // from one token's outputs to the next's
    y_base: u32,
    bias_base: u32,      // of BIAS
    expert_words: u32,   // of GROUPED and HEADS
    shard: u32,          // of GROUPED: the first that is bound
    ranks: u32,          // of GATHER
    first_group: u32,    // of a slice of the grid
    bias_stride: u32,    // of GROUPED and BIAS: from one expert's to the next's
    limit: f32,          // of LIMITED and CAPPED
    heads: u32,          // of HEADS
    x_base: u32,         // of HEADS: first quad of x; quads from one head's x to the next's, from one token's to the next's
    x_head: u32,
    x_stride: u32,
    y_head: u32,         // of HEADS: from one head's outputs to the next's
}
@group(0) @binding(1) var<uniform> params: Params;
#if DOT
@group(0) @binding(3) var<storage, read> x: array<vec4<u32>>;         // [tokens, columns / 32, 3]: lib/quantise
#else
@group(0) @binding(3) var<storage, read> x: array<vec4<f32>>;         // [tokens, columns]
#endif
@group(0) @binding(4) var<storage, read_write> y: array<f32>;         // [tokens, y_stride]
#if BIAS
@group(0) @binding(5) var<storage, read> bias: array<f32>;            // [rows of all shards], or [experts, rows]
#endif
#if GROUPED
@group(0) @binding(6) var<storage, read> order: array<u32>;           // [tokens * ranks]: rows, sorted by expert
@group(0) @binding(7) var<storage, read> tiles: array<vec4<u32>>;     // expert, first in `order`, count, unused
@group(0) @binding(8) var<storage, read> experts: array<vec2<u32>>;   // [experts]: shard, slot
#endif
#if WEIGHTED
@group(0) @binding(10) var<storage, read> gates: array<f32>;          // [tokens * ranks]
#endif

#if SWIGLU
const OUT: u32 = BM / 2u;
#else
const OUT: u32 = BM;
#endif

struct Tile {
    first_row: u32,
    base: u32,           // first word of the matrix
    first_token: u32,
    count: u32,          // of tokens; 0: nothing to do
    expert: u32,         // or head
}

fn tile_of(group: vec3<u32>, groups: vec3<u32>) -> Tile {
    let linear = params.first_group + group.y * groups.x + group.x;
#if HEADS
    // The rows of one head, then those of the next.
    let tiles = (params.outputs + OUT - 1u) / OUT;
    let head = linear / tiles;
    if head >= params.heads {
        return Tile();
    }
    let first = group.z * BN;
    return Tile(linear % tiles * OUT, head * params.expert_words, first, min(params.tokens - first, BN), head);
#else
    let first_row = linear * OUT;
    if first_row >= params.outputs {
        return Tile();
    }
#if GROUPED
    let listed = tiles[group.z];
    let place = experts[listed.x];
#if SHARDS_2
    if listed.z == 0u || !open_shard(place.x, params.shard) {
        return Tile();
    }
#else
    if listed.z == 0u || place.x != params.shard {
        return Tile();
    }
#endif
    return Tile(first_row, place.y * params.expert_words, listed.y, listed.z, listed.x);
#else
    let first_token = group.z * BN;
    return Tile(first_row, 0u, first_token, min(params.tokens - first_token, BN), 0u);
#endif
#endif
}

// First word of a tile's row. Rows past the end are computed again and not written.
fn w_row(tile: Tile, m: u32) -> u32 {
    var row = min(tile.first_row + m % OUT, params.outputs - 1u);
    if m >= OUT {
        row += params.outputs;
    }
    return tile.base + row * params.row_words;
}

// Where in x the inputs of a tile's token lie.
fn x_row(tile: Tile, n: u32) -> u32 {
    var token = tile.first_token + n;
#if GATHER
    token = order[token] / params.ranks;
#endif
#if HEADS
    return params.x_base + tile.expert * params.x_head + token * params.x_stride;
#else
#if DOT
    return token * (params.columns / 32u) * 3u;
#else
    return token * (params.columns / 4u);
#endif
#endif
}

// What the inputs of a tile's token are multiplied by.
fn x_weight(tile: Tile, n: u32) -> f32 {
#if WEIGHTED
    return gates[order[tile.first_token + n]];
#else
    return 1.0;
#endif
}

#if !DOT
// Sixteen weights of a tile's row; zero past the last column.
fn w16(tile: Tile, m: u32, run: u32) -> mat4x4<f32> {
    var w = mat4x4<f32>();
    if run < (params.columns + 15u) / 16u {
        let at = w_row(tile, m);
        w = decode16(at, at + params.tail_words, run);
    }
    return w;
}

// Four inputs of a tile's token; zero past the last token and column.
fn x4(tile: Tile, n: u32, quad: u32) -> vec4<f32> {
    var v = vec4(0.0);
    if n < tile.count && quad < params.columns / 4u {
        v = x_weight(tile, n) * x[x_row(tile, n) + quad];
    }
    return v;
}
#endif

// Where in y the outputs of a tile's token lie.
fn y_row(tile: Tile, n: u32) -> u32 {
    var token = tile.first_token + n;
#if SCATTER
    token = order[token];
#endif
#if HEADS
    return token * params.y_stride + params.y_base + tile.expert * params.y_head;
#else
    return token * params.y_stride + params.y_base;
#endif
}

// Writes one output; of SWIGLU `sum` is its gate, `up_sum` its up.
fn finish(tile: Tile, row: u32, output: u32, sum: f32, up_sum: f32) {
    var value = sum;
#if BIAS
    var bias_at = params.bias_base + output;
#if GROUPED
    bias_at += tile.expert * params.bias_stride;
#endif
    value += bias[bias_at];
#endif
#if SWIGLU
    var up = up_sum;
#if BIAS
    up += bias[bias_at + params.outputs];
#endif
    value = gated(value, up);
#endif
    let at = row + output;
#if SILU_MUL
    value = gated(value, y[at]);
#endif
#if RESIDUAL
    value += y[at];
#endif
    y[at] = value;
}
