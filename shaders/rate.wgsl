// The device's rate of arithmetic. Default: `rounds` times x = x / 2 + 1 in 16 independent lanes of f32, from 0, so often
// that it is 2 to the last bit. F16: the same in f16. DOT: x = dot(x, factor) + 1 of four packed i8, in 16 lanes from
// 0, 1, .. 15. `sums` is the sum of a workgroup's lanes.
// Grid: workgroups of WG, all alike.
#if F16
alias Number = f16;
#endif
#if !F16
#if DOT
alias Number = i32;
#else
alias Number = f32;
#endif
#endif

struct Params {
    rounds: u32,
    start: u32,     // 0, but the compiler does not know
    factor: u32,    // of DOT
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read_write> sums: array<u32>;    // [workgroups]
var<workgroup> lanes: array<u32, WG>;

#if DOT
fn advance(x: vec4<i32>) -> vec4<i32> {
    let y = bitcast<vec4<u32>>(x);
    let f = params.factor;
    return vec4(dot4I8Packed(y.x, f), dot4I8Packed(y.y, f), dot4I8Packed(y.z, f), dot4I8Packed(y.w, f)) + 1;
}
#else
fn advance(x: vec4<Number>) -> vec4<Number> {
    return fma(x, vec4<Number>(0.5), vec4<Number>(1.0));
}
#endif

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) tid: u32) {
    var a = vec4(Number(params.start));
    var b = a;
    var c = a;
    var d = a;
#if DOT
    a += vec4(0, 1, 2, 3);
    b += vec4(4, 5, 6, 7);
    c += vec4(8, 9, 10, 11);
    d += vec4(12, 13, 14, 15);
#endif
    for (var i = 0u; i < params.rounds; i++) {
        a = advance(a);
        b = advance(b);
        c = advance(c);
        d = advance(d);
    }
    let sum = (a + b) + (c + d);
#if DOT
    lanes[tid] = bitcast<u32>((sum.x + sum.y) + (sum.z + sum.w));
#else
    lanes[tid] = u32(round((sum.x + sum.y) + (sum.z + sum.w)));
#endif
    workgroupBarrier();
    if tid == 0u {
        var total = 0u;
        for (var i = 0u; i < WG; i++) {
            total += lanes[i];
        }
        sums[group.y * groups.x + group.x] = total;
    }
}
