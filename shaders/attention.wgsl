// Causal attention of query rows over the cached keys and values, flash style: a tile of WG keys at a time, softmax kept
// as a running maximum and sum, no score matrix in memory. ROWS rows that share a KV head share one reading of it; a row is
// (token, head of the group). `out` is the result; in decode over a long cache (SPLIT) the keys are cut into splits, `out`
// holds each split's unnormalised sum and `stats` its maximum and sum, which attention_combine joins.
// WINDOW: a token sees the last `window` positions up to its own (CHUNK: those of its own chunk of `window` positions);
// tiles before them are not read. The cache is a ring then: position p lies in row p % rows.
// SINKS: a score of its own a head takes part in the softmax and has no value.
// LATENT: all heads share one row of KEY_DIM a position, whose first VALUE_DIM lanes are the value; the second reading of a
// tile comes from cache. STAGED: queries are too long for workgroup memory, and are brought in STAGE quads at a time for
// each tile of keys: 16 heads of 576 then share a reading of a key in 4 KiB, for 36 KiB of queries a tile of 147 KiB.
// SELECTED, of LATENT: a token sees the `top_k` positions that index_select listed for it, or all if it has no more.
// ENTRIES, of LATENT: the first `window_rows` rows are those of the last positions, of which a token sees `window`; behind
// them lies an entry for each `ratio` positions, of which it sees those whose positions are all up to its own, or of them
// the SELECTED. Rows turn by their positions, values with them, so the last lanes of the result turn back by the token's own.
// LISTED: of either, since tokens see rows of their own.
// Grid: rows of a KV head (LISTED: of a token) / ROWS workgroups, folded; z = split * kv_heads + kv_head.
// Bound: bytes of the keys and values in decode.
// Lost, by RADV's gfx1151 code: sums indexed by a loop that does not unroll (300 blocks of branches a key); one value load
// at a time (a wait for memory a key); scores by row, then key (8-way bank conflicts, 28 LDS reads for 4 keys where 8 do).
#import lib/state
#import lib/kv

struct Params {
    tokens: u32,
    heads: u32,
    kv_heads: u32,
    splits: u32,
    scale: f32,
    first_group: u32,    // of a slice of the grid
    window: u32,         // of WINDOW: positions
    first_token: u32,    // of the step: that of the first row
    top_k: u32,          // of SELECTED and ENTRIES
    rows: u32,           // of the cache
    ratio: u32,          // of ENTRIES, as those below
    window_rows: u32,
    pairs: u32,          // that turn
    first_z: u32,     // of a slice of the grid
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(3) var<storage, read> q: array<vec4<f32>>;             // [tokens, heads, KEY_DIM]
@group(0) @binding(6) var<storage, read_write> out: array<vec4<f32>>;     // [tokens, heads, VALUE_DIM] or [splits, ...]
#if SPLIT
@group(0) @binding(7) var<storage, read_write> stats: array<vec2<f32>>;   // [splits, tokens, heads]: maximum, sum
#endif
#if SINKS
@group(0) @binding(8) var<storage, read> sinks: array<f32>;               // [heads]
#endif

const QUADS: u32 = VALUE_DIM / 4u;
#if !STAGED
const STAGE: u32 = KEY_QUADS;
#endif
// Columns of V: with few, several phases of the workgroup share a column; with many, an invocation takes several.
const PHASES: u32 = max(WG / QUADS, 1u);
const COLUMNS: u32 = (QUADS + WG - 1u) / WG;
#if SELECTED
@group(0) @binding(9) var<storage, read> selected: array<u32>;            // [tokens of the step, top_k]
#endif
#if ENTRIES
@group(0) @binding(10) var<storage, read> rope: array<vec2<f32>>;         // [positions, pairs]: cos, sin
#endif
#if LISTED
var<workgroup> tile_rows: array<u32, WG>;    // of the cache, of a tile's keys
#endif
const LANES: u32 = WG / ROWS;    // invocations a row of the tile's softmax
const LOWEST: f32 = -3.0e38;

var<workgroup> queries: array<vec4<f32>, ROWS * STAGE>;
var<workgroup> scores: array<f32, ROWS * WG>;    // [keys, rows]
var<workgroup> lane_max: array<f32, WG>;         // [lanes, rows]
var<workgroup> lane_sum: array<f32, WG>;
var<workgroup> row_max: array<f32, ROWS>;
var<workgroup> row_sum: array<f32, ROWS>;
var<workgroup> row_rescale: array<f32, ROWS>;
var<workgroup> phase_sum: array<vec4<f32>, WG>;

// Brings STAGE quads of each row's query into workgroup memory, from `stage` on.
fn load_queries(tid: u32, first: u32, kv_head: u32, stage: u32) {
    let sharing = params.heads / params.kv_heads;
    for (var i = tid; i < ROWS * STAGE; i += WG) {
        let row = min(first + i / STAGE, params.tokens * sharing - 1u);
        let head = (row / sharing) * params.heads + kv_head * sharing + row % sharing;
        queries[i] = q[head * KEY_QUADS + stage + i % STAGE] * params.scale;
    }
}

#if ENTRIES
// A quad of the result of the token at `position`, turned back if its lanes are among the last.
fn turned_back(v: vec4<f32>, quad: u32, position: u32) -> vec4<f32> {
    let first = QUADS - params.pairs / 2u;
    if quad < first {
        return v;
    }
    let at = position * params.pairs + 2u * (quad - first);
    let a = rope[at];
    let b = rope[at + 1u];
    return vec4(v.x * a.x + v.y * a.y, v.y * a.x - v.x * a.y, v.z * b.x + v.w * b.y, v.w * b.x - v.z * b.y);
}
#endif

// A row of the cache, counted on from one before the ring's end of `rows`: below it the difference is huge.
fn wrapped(row: u32, rows: u32) -> u32 {
#if WINDOW
    return min(row, row - rows);
#else
    return row;
#endif
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) tid: u32) {
    if halted() {
        return;
    }
    let part = params.first_z + group.z;
    let kv_head = part % params.kv_heads;
    let split = part / params.kv_heads;
    let sharing = params.heads / params.kv_heads;
    let tile_of_rows = params.first_group + group.y * groups.x + group.x;
#if LISTED
    // Tokens see keys of their own, so a tile is of one token.
    let tiles = (sharing + ROWS - 1u) / ROWS;
    let token = tile_of_rows / tiles;
    if token >= params.tokens {
        return;
    }
    let first = token * sharing + tile_of_rows % tiles * ROWS;
    let rows = (token + 1u) * sharing;
#if SELECTED
    let list = (params.first_token + token) * params.top_k;
#endif
#else
    let rows = params.tokens * sharing;
    let first = tile_of_rows * ROWS;
    if first >= rows {
        return;
    }
#endif
#if !STAGED
    load_queries(tid, first, kv_head, 0u);
#endif
    if tid < ROWS {
        row_max[tid] = LOWEST;
        row_sum[tid] = 0.0;
#if SINKS
        if split == 0u {
            row_max[tid] = sinks[kv_head * sharing + (first + tid) % sharing];
            row_sum[tid] = 1.0;
        }
#endif
    }
    workgroupBarrier();

    // The last row's token sees the most keys. Splits are whole tiles.
    let last_token = min(first + ROWS - 1u, rows - 1u) / sharing;
    let position = state.position + params.first_token;
    var length = position + last_token + 1u;
#if ENTRIES
    let entries = min(length / params.ratio, params.top_k);
    let seen = min(length, params.window);
    let first_seen = length - seen;
    length = entries + seen;
#else
#if SELECTED
    length = min(length, params.top_k);
#endif
#endif
    var low = 0u;
#if WINDOW
    // The first row's token sees the earliest keys.
    low = position + first / sharing;
#if CHUNK
    low -= low % params.window;
#else
    low -= min(low, params.window - 1u);
#endif
#endif
    let per_split = ((length - low + params.splits - 1u) / params.splits + WG - 1u) / WG * WG;
    let begin = min(low + split * per_split, length);
    let end = min(begin + per_split, length);

    let row = tid % ROWS;
    let lane = tid / ROWS;
    let column = tid % QUADS;
    let phase = tid / QUADS;
    var sums: array<vec4<f32>, ROWS * COLUMNS>;
    let cache_rows = params.rows * params.kv_heads;
    for (var tile = begin; tile < end; tile += WG) {
        let key = tile + tid;
#if WINDOW
        let values = tile % params.rows * params.kv_heads + kv_head;
#else
        let values = tile * params.kv_heads + kv_head;
#endif
        var score = array<f32, ROWS>();
#if LISTED
        // Which positions these are matters no more: all of them are seen.
        var k_row = 0u;
#if ENTRIES
        if key >= entries {
            k_row = (first_seen + key - entries) % params.window_rows;
        } else {
            k_row = params.window_rows + key;
#if SELECTED
            k_row = params.window_rows + selected[list + key];
#endif
        }
#else
        if key < end {
            k_row = selected[list + key];
        }
#endif
        tile_rows[tid] = k_row;
#else
        let k_row = wrapped(values + tid * params.kv_heads, cache_rows);
#endif
#if STAGED
        for (var stage = 0u; stage < KEY_QUADS; stage += STAGE) {
            workgroupBarrier();
            load_queries(tid, first, kv_head, stage);
            workgroupBarrier();
#else
        const stage = 0u;
#endif
        if key < end {
            for (var i = 0u; i < STAGE; i++) {
                let k = k_quad(k_row, stage + i);
                for (var r = 0u; r < ROWS; r++) {
                    score[r] += dot(queries[r * STAGE + i], k);
                }
            }
        }
#if STAGED
        }
#endif
        for (var r = 0u; r < ROWS; r++) {
            let own = position + (first + r) / sharing;
            var sees = key < end;
#if !LISTED
            sees = sees && key <= own;
#endif
#if WINDOW
#if CHUNK
            sees = sees && key >= own - own % params.window;
#else
            sees = sees && key + params.window > own;
#endif
#endif
            scores[tid * ROWS + r] = select(LOWEST, score[r], sees);
        }
        workgroupBarrier();

        // LANES invocations a row: the tile's maximum, then its exponentials and their sum.
        var high = LOWEST;
        for (var i = 0u; i < ROWS; i++) {
            high = max(high, scores[(lane + i * LANES) * ROWS + row]);
        }
        lane_max[tid] = high;
        workgroupBarrier();
        high = row_max[row];
        for (var l = 0u; l < LANES; l++) {
            high = max(high, lane_max[l * ROWS + row]);
        }
        var sum = 0.0;
        for (var i = 0u; i < ROWS; i++) {
            let at = (lane + i * LANES) * ROWS + row;
            let s = scores[at];
            let p = select(0.0, exp(s - high), s > LOWEST);
            scores[at] = p;
            sum += p;
        }
        lane_sum[tid] = sum;
        workgroupBarrier();
        if tid < ROWS {
            let rescale = exp(row_max[row] - high);
            sum = row_sum[row] * rescale;
            for (var l = 0u; l < LANES; l++) {
                sum += lane_sum[l * ROWS + row];
            }
            row_sum[row] = sum;
            row_max[row] = high;
            row_rescale[row] = rescale;
        }
        workgroupBarrier();

        for (var i = 0u; i < ROWS * COLUMNS; i++) {
            sums[i] *= row_rescale[i % ROWS];
        }
        // Four keys at a time: their loads wait for memory together.
        let keys = select(0u, min(WG, end - tile), phase < PHASES);
        let stride = params.kv_heads;
        var i = phase;
        for (; i + 3u * PHASES < keys; i += 4u * PHASES) {
            for (var c = 0u; c < COLUMNS; c++) {
                if column + c * WG < QUADS {
#if LISTED
                    let v0 = v_quad(tile_rows[i], column + c * WG);
                    let v1 = v_quad(tile_rows[i + PHASES], column + c * WG);
                    let v2 = v_quad(tile_rows[i + 2u * PHASES], column + c * WG);
                    let v3 = v_quad(tile_rows[i + 3u * PHASES], column + c * WG);
#else
                    let at = values + i * stride;
                    let v0 = v_quad(wrapped(at, cache_rows), column + c * WG);
                    let v1 = v_quad(wrapped(at + PHASES * stride, cache_rows), column + c * WG);
                    let v2 = v_quad(wrapped(at + 2u * PHASES * stride, cache_rows), column + c * WG);
                    let v3 = v_quad(wrapped(at + 3u * PHASES * stride, cache_rows), column + c * WG);
#endif
                    for (var r = 0u; r < ROWS; r++) {
                        let s = i * ROWS + r;
                        var sum = sums[c * ROWS + r];
                        sum += scores[s] * v0;
                        sum += scores[s + PHASES * ROWS] * v1;
                        sum += scores[s + 2u * PHASES * ROWS] * v2;
                        sum += scores[s + 3u * PHASES * ROWS] * v3;
                        sums[c * ROWS + r] = sum;
                    }
                }
            }
        }
        for (; i < keys; i += PHASES) {
            for (var c = 0u; c < COLUMNS; c++) {
                if column + c * WG < QUADS {
#if LISTED
                    let v = v_quad(tile_rows[i], column + c * WG);
#else
                    let v = v_quad(wrapped(values + i * stride, cache_rows), column + c * WG);
#endif
                    for (var r = 0u; r < ROWS; r++) {
                        sums[c * ROWS + r] += scores[i * ROWS + r] * v;
                    }
                }
            }
        }
        workgroupBarrier();
    }

    for (var r = 0u; r < ROWS; r++) {
        for (var c = 0u; c < COLUMNS; c++) {
            phase_sum[tid] = sums[c * ROWS + r];
            workgroupBarrier();
            let at = column + c * WG;
            if phase == 0u && at < QUADS && first + r < rows {
                var value = phase_sum[tid];
                for (var p = 1u; p < PHASES; p++) {
                    value += phase_sum[p * QUADS + column];
                }
#if ENTRIES
                value = turned_back(value, at, position + last_token);
#endif
                let head = ((first + r) / sharing) * params.heads + kv_head * sharing + (first + r) % sharing;
#if SPLIT
                let slot = split * params.tokens * params.heads + head;
                out[slot * QUADS + at] = value;
                if at == 0u {
                    stats[slot] = vec2(row_max[r], row_sum[r]);
                }
#else
                out[head * QUADS + at] = value / row_sum[r];
#endif
            }
            workgroupBarrier();
        }
    }
}
