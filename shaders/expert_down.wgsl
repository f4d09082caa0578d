// y += sum over ranks of gates[rank] * (W[routed[rank]] x[rank]): the experts' down projection for one token, its weighted
// combine and the residual in one. All shards of the stack are bound, and ranks are summed in order, so the result does not
// depend on where experts lie.
// UNWEIGHTED: every gate is 1.   STORE: y = that, not y += that.
// DOT: integer dot products: x is rounded (lib/quantise).
// Grid: rows / ROWS workgroups, folded.
// Bound: bytes of the routed experts. Ranks and runs are one loop, so that short rows still fill the workgroup. Where the
// experts lie is looked up once: in the loop it cost two reads of memory one after the other before each weight.
#import lib/state
#import lib/weights
#import format
const SUMS: u32 = ROWS;
#import lib/reduce

struct Params {
    rows: u32,
    columns: u32,
    row_words: u32,
    tail_words: u32,     // from a row's start to its tails
    expert_words: u32,
    first_group: u32,    // of a slice of the grid
}
@group(0) @binding(1) var<uniform> params: Params;
#if DOT
@group(0) @binding(3) var<storage, read> x: array<vec4<u32>>;         // [RANKS, columns / 32, 3]
#else
@group(0) @binding(3) var<storage, read> x: array<vec4<f32>>;         // [RANKS, columns]
#endif
@group(0) @binding(4) var<storage, read_write> y: array<f32>;         // [rows]
@group(0) @binding(5) var<storage, read> routed: array<u32>;          // [RANKS]
#if !UNWEIGHTED
@group(0) @binding(6) var<storage, read> gates: array<f32>;           // [RANKS]
#endif
@group(0) @binding(7) var<storage, read> experts: array<vec2<u32>>;   // [experts]: shard, slot
#if BIAS
@group(0) @binding(8) var<storage, read> bias: array<f32>;            // [experts, rows]
#endif

struct Place {
    shard: u32,
    base: u32,    // first word
    gate: f32,
}
var<workgroup> places: array<Place, RANKS>;

fn gate_of(rank: u32) -> f32 {
#if UNWEIGHTED
    return 1.0;
#else
    return gates[rank];
#endif
}

#if DOT
#import lib/quantised
#else
#import lib/inputs
#endif

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, invocation: Invocation) {
    let tid = invocation.tid;
    if halted() {
        return;
    }
    let first = (params.first_group + group.y * groups.x + group.x) * ROWS;
    if first >= params.rows {
        return;
    }
    for (var rank = tid; rank < RANKS; rank += WG) {
        let place = experts[routed[rank]];
        places[rank] = Place(place.x, place.y * params.expert_words, gate_of(rank));
    }
    workgroupBarrier();
    let runs = (params.columns + 15u) / 16u;
    for (var item = tid; item < RANKS * runs; item += WG) {
        let rank = item / runs;
        let run = item - rank * runs;
        let place = places[rank];
#if SHARDS_2
        _ = open_shard(place.shard, 0u);
#endif
#if DOT
        let v = quantised16(rank * (params.columns / 32u) * 3u, run);
        for (var r = 0u; r < ROWS; r++) {
            let row = place.base + min(first + r, params.rows - 1u) * params.row_words;
            acc[r] += place.gate * integer_dot16(quants16(row, row + params.tail_words, run), v);
        }
#else
        let quads = params.columns / 4u;
        let v = x16(rank * quads + 4u * run, quads - 4u * run) * place.gate;
        for (var r = 0u; r < ROWS; r++) {
            let row = place.base + min(first + r, params.rows - 1u) * params.row_words;
            acc[r] += dot16(decode16(row, row + params.tail_words, run), v);
        }
#endif
    }
    reduce(invocation);
    if tid < ROWS && first + tid < params.rows {
        var value = total(tid);
#if BIAS
        for (var rank = 0u; rank < RANKS; rank++) {
            value += gate_of(rank) * bias[routed[rank] * params.rows + first + tid];
        }
#endif
#if STORE
        y[first + tid] = value;
#else
        y[first + tid] += value;
#endif
    }
}
