// Sorts the routed (token, rank) rows by expert, stably, and cuts each expert's rows into tiles of BN: count, scan, scatter.
// Atomics only count, and a row's place counts the rows of its expert before it, so the result does not depend on timing.
// Grid: one workgroup.   Bound: `rows` reads of workgroup memory by each invocation; small beside the matmuls that it feeds.
// Lost: an invocation owns experts and reads all rows for each, twice: rows * 2 * EXPERTS / WG dependent loads.
#import lib/state

struct Params {
    rows: u32,       // tokens * ranks
    tiles: u32,      // length of `tiles`
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> routed: array<u32>;                // [rows]
@group(0) @binding(3) var<storage, read_write> order: array<u32>;           // [rows]: rows, sorted by expert
@group(0) @binding(4) var<storage, read_write> tiles: array<vec4<u32>>;     // expert, first in `order`, count, 0

const STRETCH: u32 = (EXPERTS + WG - 1u) / WG;
var<workgroup> counts: array<atomic<u32>, EXPERTS>;
var<workgroup> next_row: array<atomic<u32>, EXPERTS>;    // where an expert's next row goes in `order`
var<workgroup> sums: array<vec2<u32>, WG>;               // rows and tiles of an invocation's stretch of experts
var<workgroup> chunk: array<u32, WG>;                    // experts of WG rows

@compute @workgroup_size(WG)
fn main(@builtin(local_invocation_index) tid: u32) {
    if halted() {
        return;
    }
    for (var e = tid; e < EXPERTS; e += WG) {
        atomicStore(&counts[e], 0u);
    }
    workgroupBarrier();
    for (var i = tid; i < params.rows; i += WG) {
        atomicAdd(&counts[routed[i]], 1u);
    }
    workgroupBarrier();

    let begin = min(tid * STRETCH, EXPERTS);
    let end = min(begin + STRETCH, EXPERTS);
    var sum = vec2(0u);
    for (var e = begin; e < end; e++) {
        let count = atomicLoad(&counts[e]);
        sum += vec2(count, (count + BN - 1u) / BN);
    }
    sums[tid] = sum;
    workgroupBarrier();
    var before = vec2(0u);
    var used_tiles = 0u;
    for (var i = 0u; i < WG; i++) {
        before += select(vec2(0u), sums[i], i < tid);
        used_tiles += sums[i].y;
    }
    for (var e = begin; e < end; e++) {
        let count = atomicLoad(&counts[e]);
        atomicStore(&next_row[e], before.x);
        for (var done = 0u; done < count; done += BN) {
            tiles[before.y] = vec4(e, before.x + done, min(count - done, BN), 0u);
            before.y++;
        }
        before.x += count;
    }
    for (var t = used_tiles + tid; t < params.tiles; t += WG) {
        tiles[t] = vec4(0u);
    }

    for (var start = 0u; start < params.rows; start += WG) {
        let i = start + tid;
        var expert = EXPERTS;
        if i < params.rows {
            expert = routed[i];
        }
        chunk[tid] = expert;
        workgroupBarrier();
        if i < params.rows {
            var at = atomicLoad(&next_row[expert]);
            for (var j = 0u; j < tid; j++) {
                at += select(0u, 1u, chunk[j] == expert);
            }
            order[at] = i;
        }
        workgroupBarrier();
        if i < params.rows {
            atomicAdd(&next_row[expert], 1u);
        }
    }
}
