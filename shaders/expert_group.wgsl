// Sorts the routed (token, rank) rows by expert, stably, and cuts each expert's rows into tiles of BN: count, scan, scatter.
// Atomics only count, and a row's place counts the rows of its expert before it, so the result does not depend on timing.
// Grid: one workgroup.   Bound: `rows` reads of workgroup memory by each invocation, 16 at a time; small beside the matmuls that
// it feeds.
// Lost: an invocation owns experts and reads all rows for each, twice: rows * 2 * EXPERTS / WG dependent loads.
#import lib/state
#import lib/scan

alias Summed = vec2<u32>;    // rows and tiles of an invocation's stretch of experts
struct Params {
    rows: u32,       // tokens * ranks
    tiles: u32,      // length of `tiles`
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> routed: array<u32>;                // [rows]
@group(0) @binding(3) var<storage, read_write> order: array<u32>;           // [rows]: rows, sorted by expert
@group(0) @binding(4) var<storage, read_write> tiles: array<vec4<u32>>;     // expert, first in `order`, count, 0

const STRETCH: u32 = (EXPERTS + WG - 1u) / WG;
const AT_ONCE: u32 = min(WG, 16u);
var<workgroup> counts: array<atomic<u32>, EXPERTS>;
var<workgroup> next_row: array<atomic<u32>, EXPERTS>;    // where an expert's next row goes in `order`
var<workgroup> chunk: array<u32, WG>;                    // experts of WG rows

// Of a row, EXPERTS behind the last.
fn expert_of(row: u32) -> u32 {
    return select(EXPERTS, routed[min(row, params.rows - 1u)], row < params.rows);
}

@compute @workgroup_size(WG)
fn main(@builtin(local_invocation_index) tid: u32) {
    if halted() {
        return;
    }
    for (var e = tid; e < EXPERTS; e += WG) {
        atomicStore(&counts[e], 0u);
    }
    workgroupBarrier();
    for (var i = tid; i < params.rows; i += 4u * WG) {
        let experts = vec4(expert_of(i), expert_of(i + WG), expert_of(i + 2u * WG), expert_of(i + 3u * WG));
        for (var k = 0u; k < 4u; k++) {
            if experts[k] < EXPERTS {
                atomicAdd(&counts[experts[k]], 1u);
            }
        }
    }
    workgroupBarrier();

    let begin = min(tid * STRETCH, EXPERTS);
    let end = min(begin + STRETCH, EXPERTS);
    var sum = vec2(0u);
    for (var e = begin; e < end; e++) {
        let count = atomicLoad(&counts[e]);
        sum += vec2(count, (count + BN - 1u) / BN);
    }
    sum_up(tid, sum);
    var next = before(tid);
    for (var e = begin; e < end; e++) {
        let count = atomicLoad(&counts[e]);
        atomicStore(&next_row[e], next.x);
        for (var done = 0u; done < count; done += BN) {
            tiles[next.y] = vec4(e, next.x + done, min(count - done, BN), 0u);
            next.y++;
        }
        next.x += count;
    }
    for (var t = total().y + tid; t < params.tiles; t += WG) {
        tiles[t] = vec4(0u);
    }

    var coming = expert_of(tid);
    for (var start = 0u; start < params.rows; start += WG) {
        let i = start + tid;
        let expert = coming;
        coming = expert_of(i + WG);
        chunk[tid] = expert;
        workgroupBarrier();
        if i < params.rows {
            var at = atomicLoad(&next_row[expert]);
            for (var j = 0u; j < min(WG, params.rows - start); j += AT_ONCE) {
                for (var k = 0u; k < AT_ONCE; k++) {
                    at += u32((chunk[j + k] == expert) & (j + k < tid));
                }
            }
            order[at] = i;
        }
        workgroupBarrier();
        if i < params.rows {
            atomicAdd(&next_row[expert], 1u);
        }
    }
}
