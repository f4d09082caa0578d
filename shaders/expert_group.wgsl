// Sorts the routed (token, rank) rows by expert, stably, and cuts each expert's rows into tiles of BN: count, scan, scatter.
// An invocation owns an expert and reads all rows in order, so the result does not depend on timing.
// Grid: one workgroup.   Bound: rows / WG reads of cache twice; small beside the matmuls that it feeds.
#import lib/state

struct Params {
    rows: u32,       // tokens * ranks
    experts: u32,
    tiles: u32,      // length of `tiles`
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> routed: array<u32>;                // [rows]
@group(0) @binding(3) var<storage, read_write> order: array<u32>;           // [rows]: rows, sorted by expert
@group(0) @binding(4) var<storage, read_write> tiles: array<vec4<u32>>;     // expert, first in `order`, count, 0

var<workgroup> counts: array<u32, EXPERTS>;
var<workgroup> first_row: array<u32, EXPERTS>;
var<workgroup> first_tile: array<u32, EXPERTS>;
var<workgroup> used_tiles: u32;

@compute @workgroup_size(WG)
fn main(@builtin(local_invocation_index) tid: u32) {
    if halted() {
        return;
    }
    for (var e = tid; e < params.experts; e += WG) {
        var count = 0u;
        for (var i = 0u; i < params.rows; i++) {
            count += select(0u, 1u, routed[i] == e);
        }
        counts[e] = count;
    }
    workgroupBarrier();
    if tid == 0u {
        var row = 0u;
        var tile = 0u;
        for (var e = 0u; e < params.experts; e++) {
            first_row[e] = row;
            first_tile[e] = tile;
            row += counts[e];
            tile += (counts[e] + BN - 1u) / BN;
        }
        used_tiles = tile;
    }
    workgroupBarrier();
    for (var e = tid; e < params.experts; e += WG) {
        var at = first_row[e];
        for (var done = 0u; done < counts[e]; done += BN) {
            tiles[first_tile[e] + done / BN] = vec4(e, at + done, min(counts[e] - done, BN), 0u);
        }
        if counts[e] > 0u {
            for (var i = 0u; i < params.rows; i++) {
                if routed[i] == e {
                    order[at] = i;
                    at++;
                }
            }
        }
    }
    for (var t = used_tiles + tid; t < params.tiles; t += WG) {
        tiles[t] = vec4(0u);
    }
}
