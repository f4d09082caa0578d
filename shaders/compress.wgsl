// Compressed keys of DeepSeek-V4: each window of RATIO positions becomes one entry of the cache. Of each channel the softmax
// over the window's gates, each with a bias of its place in the window, weighs the window's values; the entry is normed and
// its last lanes turn by the window's first position. OVERLAP: rows are twice as wide; an entry is made of the first half of
// the window before, and the second half of its own.
// A window that ends within the step is written; of those that do not, `sums` keeps each channel's highest gate, and the sums
// of e^(gate - highest) and of that times the value: they are all that the tokens so far count for.
// Grid: one workgroup for the windows that the step begins and ends in, then one for each between.
// Bound: launch in decode, bytes of the rows in prefill. No window is cut among workgroups: the first reads `sums`, writes them.
#import lib/state
const SUMS: u32 = 1u;
#import lib/reduce

struct Params {
    tokens: u32,
    stride: u32,       // of a row of a
    kv_at: u32,        // of values and of gates in it
    gate_at: u32,
    pairs: u32,        // that turn
    eps: f32,
    first_row: u32,    // of the entries, counted from that of the bound shard of the cache: below it the difference is huge
    shard_rows: u32,   // of that shard: those of others are passed over
    last: u32,         // whether it is the last shard: `sums` stay what they were until all have been written
    first_group: u32,  // of a slice of the grid
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> a: array<f32>;                // [tokens, stride]
@group(0) @binding(3) var<storage, read> place: array<f32>;            // [RATIO, WIDTH]
@group(0) @binding(4) var<storage, read> norm: array<f32>;             // [HEAD_DIM]
@group(0) @binding(5) var<storage, read> rope: array<vec2<f32>>;       // [positions, pairs]: cos, sin
@group(0) @binding(6) var<storage, read_write> sums: array<f32>;       // [windows that are not full, 3, HEAD_DIM]
@group(0) @binding(7) var<storage, read_write> cache: array<u32>;      // [first_row + entries, HEAD_DIM]

const LOWEST: f32 = -3.0e38;
#if OVERLAP
const WIDTH: u32 = 2u * HEAD_DIM;
const BESIDE: u32 = 1u;    // windows after its own that a token counts in
#else
const WIDTH: u32 = HEAD_DIM;
const BESIDE: u32 = 0u;
#endif

var<workgroup> rotated: array<f32, HEAD_DIM>;
#import lib/kv_write
#import lib/rope

// What the tokens so far make of a window in one channel: highest gate, sums of weights and of weighted values.
fn gathered(window: u32, channel: u32) -> vec3<f32> {
    var run = vec3(LOWEST, 0.0, 0.0);
    var start = (window - min(window, BESIDE)) * RATIO;
    if start < state.position {
        let at = (window - state.position / RATIO) * 3u * HEAD_DIM + channel;
        run = vec3(sums[at], sums[at + HEAD_DIM], sums[at + 2u * HEAD_DIM]);
        start = state.position;
    }
    let end = min((window + 1u) * RATIO, state.position + params.tokens);
    for (var p = start; p < end; p++) {
        var column = channel;
#if OVERLAP
        column += select(0u, HEAD_DIM, p >= window * RATIO);
#endif
        let row = (p - state.position) * params.stride + column;
        let gate = a[row + params.gate_at] + place[p % RATIO * WIDTH + column];
        let high = max(run.x, gate);
        let before = exp(run.x - high);
        let weight = exp(gate - high);
        run = vec3(high, run.y * before + weight, run.z * before + weight * a[row + params.kv_at]);
    }
    return run;
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, invocation: Invocation) {
    let tid = invocation.tid;
    if halted() {
        return;
    }
    let part = params.first_group + group.x;
    let after = state.position + params.tokens;
    let begins = state.position / RATIO;    // the windows of the first token, and of the first after the step
    let ends = after / RATIO;
    var window = begins;
    var last = ends + BESIDE;
    if part > 0u {
        window = begins + BESIDE + part;
        last = window;
        if window >= ends {
            return;
        }
    }
    while window <= last {
        let full = (window + 1u) * RATIO <= after;
        let at = (window - min(window, ends)) * 3u * HEAD_DIM;
        acc[0] = 0.0;
        for (var i = tid; i < HEAD_DIM; i += WG) {
            let run = gathered(window, i);
            if full {
                rotated[i] = run.z / run.y;
                acc[0] += rotated[i] * rotated[i];
            } else if params.last != 0u {
                sums[at + i] = run.x;
                sums[at + HEAD_DIM + i] = run.y;
                sums[at + 2u * HEAD_DIM + i] = run.z;
            }
        }
        if full {
            reduce(invocation);
            let inverse = inverseSqrt(total(0u) / f32(HEAD_DIM) + params.eps);
            for (var i = tid; i < HEAD_DIM; i += WG) {
                rotated[i] *= inverse * norm[i];
            }
            workgroupBarrier();
            for (var i = tid; i < params.pairs; i += WG) {
                let lane = HEAD_DIM - 2u * (params.pairs - i);
                let v = turned(vec2(rotated[lane], rotated[lane + 1u]), rope[window * RATIO * params.pairs + i]);
                rotated[lane] = v.x;
                rotated[lane + 1u] = v.y;
            }
            workgroupBarrier();
            let row = params.first_row + window;
            for (var i = tid; row < params.shard_rows && i < CACHE_WORDS; i += WG) {
                cache[row * CACHE_WORDS + i] = cache_word(i);
            }
            workgroupBarrier();
        }
        window++;
        // Those between are other workgroups'.
        if part == 0u && window > begins + BESIDE {
            window = max(window, ends);
        }
    }
}
