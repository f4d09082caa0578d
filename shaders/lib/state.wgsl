// The state of a step. The sampling kernel advances it and a lookup that misses an expert halts it; every other kernel reads it,
// and does nothing once `halt` is set. Laid out as `session/state.rs` says.
struct State {
    halt: u32,           // 0: run; else why the steps stopped
    halt_layer: u32,
    position: u32,       // tokens whose keys and values are cached before this step
    context: u32,        // positions that the cache holds
    generated: u32,      // tokens sampled since the prompt
    limit: u32,          // of `generated`
    last: u32,           // the token sampled last
    top_k: u32,          // 0: all
    temperature: f32,    // 0: greedy
    top_p: f32,
    min_p: f32,
    repeat_penalty: f32,
    repeat_last: u32,    // tokens that the penalty looks back
    seed: u32,
    stop_count: u32,
    clock: u32,          // steps so far: the age of experts in their slots
    stop: array<vec4<u32>, 8>,
}
const HALT_STOP: u32 = 1u;
const HALT_LIMIT: u32 = 2u;
const HALT_CONTEXT: u32 = 3u;
const HALT_MISS: u32 = 4u;

#if STATE_WRITE
@group(0) @binding(0) var<storage, read_write> state: State;
var<workgroup> shared_state: State;

// The state before this kernel changes it, uniform: what `state` itself holds is not, since the kernel may write it.
fn load_state(tid: u32) -> State {
    if tid == 0u {
        shared_state = state;
    }
    return workgroupUniformLoad(&shared_state);
}
#else
@group(0) @binding(0) var<uniform> state: State;

fn halted() -> bool {
    return state.halt != 0u;
}
#endif
