// x[t] = scale * W[tokens[position + t]]: rows of the embedding table, in any block format.
// Grid: one workgroup a token. A table in several shards takes one dispatch each; a token outside this shard is skipped.
// Bound: launch; a row is a few KiB.
#import lib/state
#import lib/weights
#import format

struct Params {
    columns: u32,
    row_words: u32,
    tail_words: u32,    // from a row's start to its tails
    first_row: u32,     // of this shard
    rows: u32,          // in this shard
    scale: f32,
    first_group: u32, // of a slice of the grid
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(3) var<storage, read> tokens: array<u32>;             // [context + 1]
@group(0) @binding(4) var<storage, read_write> x: array<vec4<f32>>;      // [tokens, columns]

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) tid: u32) {
    if halted() {
        return;
    }
    let t = params.first_group + group.y * groups.x + group.x;
    let local = tokens[state.position + t] - params.first_row;
    if local >= params.rows {
        return;
    }
    let row = local * params.row_words;
    let quads = params.columns / 4u;
    for (var run = tid; run < (quads + 3u) / 4u; run += WG) {
        let w = decode16(row, row + params.tail_words, run);
        for (var i = 0u; i < 4u; i++) {
            if 4u * run + i < quads {
                x[t * quads + 4u * run + i] = params.scale * w[i];
            }
        }
    }
}
