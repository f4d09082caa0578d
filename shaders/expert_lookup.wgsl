// Are the experts that the router chose in their slots? If one is not, the step halts at this layer, and the record says which
// experts it needs and when each of the layer was needed last: the host evicts the oldest.
// Grid: one workgroup.   Bound: launch.
#import lib/state

struct Params {
    rows: u32,       // tokens * ranks
    layer: u32,
}
struct Record {
    found: u32,                      // experts that lookups without a miss needed, in all
    needed: array<u32, 32>,          // of the halted layer: a bit an expert
    stamps: array<u32, 1024>,        // of the halted layer
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> routed: array<u32>;           // [rows]
@group(0) @binding(3) var<storage, read> experts: array<vec2<u32>>;    // [EXPERTS]: shard, or NOWHERE; slot
@group(0) @binding(4) var<storage, read_write> stamps: array<u32>;     // [EXPERTS]: the clock of the step that needed it last
@group(0) @binding(5) var<storage, read_write> record: Record;

const NOWHERE: u32 = 0xffffffffu;
const WORDS: u32 = (EXPERTS + 31u) / 32u;
var<workgroup> needed: array<atomic<u32>, WORDS>;
var<workgroup> missing: atomic<u32>;

@compute @workgroup_size(WG)
fn main(@builtin(local_invocation_index) tid: u32) {
    let asked = load_state(tid);
    if asked.halt != 0u {
        return;
    }
    for (var w = tid; w < WORDS; w += WG) {
        atomicStore(&needed[w], 0u);
    }
    atomicStore(&missing, 0u);
    workgroupBarrier();
    for (var i = tid; i < params.rows; i += WG) {
        atomicOr(&needed[routed[i] / 32u], 1u << (routed[i] % 32u));
    }
    workgroupBarrier();
    for (var e = tid; e < EXPERTS; e += WG) {
        if ((atomicLoad(&needed[e / 32u]) >> (e % 32u)) & 1u) == 1u {
            stamps[e] = asked.clock;
            if experts[e].x == NOWHERE {
                atomicStore(&missing, 1u);
            }
        }
    }
    workgroupBarrier();
    if atomicLoad(&missing) == 0u {
        if tid == 0u {
            for (var w = 0u; w < WORDS; w++) {
                record.found += countOneBits(atomicLoad(&needed[w]));
            }
        }
        return;
    }
    for (var w = tid; w < WORDS; w += WG) {
        record.needed[w] = atomicLoad(&needed[w]);
    }
    for (var e = tid; e < EXPERTS; e += WG) {
        record.stamps[e] = stamps[e];
    }
    if tid == 0u {
        state.halt = HALT_MISS;
        state.halt_layer = params.layer;
    }
}
