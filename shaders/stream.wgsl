// The device's own limits. Default: reads a buffer once and keeps the sum of its words, one partial sum a workgroup: the
// rate of a stream. FILL: writes word i = i * 2654435761, so that the sum is known. TICK: adds 1 to a counter: a dispatch
// that does nothing but depend on the one before it.
// Grid: workgroups of WG, each its stretch of quads, neighbours reading neighbours.
struct Params {
    quads: u32,
    per_group: u32,    // quads a workgroup
}
@group(0) @binding(1) var<uniform> params: Params;
#if TICK
@group(0) @binding(2) var<storage, read_write> sums: array<u32>;

@compute @workgroup_size(1)
fn main() {
    sums[0] += params.quads;
}
#else
#if FILL
@group(0) @binding(2) var<storage, read_write> words: array<vec4<u32>>;
#else
@group(0) @binding(2) var<storage, read> words: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read_write> sums: array<atomic<u32>>;    // [workgroups], zero before
#endif

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) tid: u32) {
    let index = group.y * groups.x + group.x;
    let start = index * params.per_group;
    let end = min(start + params.per_group, params.quads);
    var sum = vec4(0u);
    for (var i = start + tid; i < end; i += WG) {
#if FILL
        words[i] = (vec4(4u * i) + vec4(0u, 1u, 2u, 3u)) * 2654435761u;
#else
        sum += words[i];
#endif
    }
#if !FILL
    atomicAdd(&sums[index], sum.x + sum.y + sum.z + sum.w);
#endif
}
#endif
