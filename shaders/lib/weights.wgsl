// A matrix or expert stack in its device layout (formats/mod.rs): rows start at 16-byte quads.
// SHARDS_2, SHARDS_4, SHARDS_8   so many shards of a stack are bound; an invocation reads the one that it opened last
@group(0) @binding(2) var<storage, read> weights: array<vec4<u32>>;
#if SHARDS_2
@group(0) @binding(11) var<storage, read> weights_1: array<vec4<u32>>;
#if SHARDS_4
@group(0) @binding(12) var<storage, read> weights_2: array<vec4<u32>>;
@group(0) @binding(13) var<storage, read> weights_3: array<vec4<u32>>;
#endif
#if SHARDS_8
@group(0) @binding(14) var<storage, read> weights_4: array<vec4<u32>>;
@group(0) @binding(15) var<storage, read> weights_5: array<vec4<u32>>;
@group(0) @binding(16) var<storage, read> weights_6: array<vec4<u32>>;
@group(0) @binding(17) var<storage, read> weights_7: array<vec4<u32>>;
const SHARDS: u32 = 8u;
#else
#if SHARDS_4
const SHARDS: u32 = 4u;
#else
const SHARDS: u32 = 2u;
#endif
#endif
var<private> opened: u32;

// Whether a shard of the stack is bound, of which `first` is the first that is.
fn open_shard(shard: u32, first: u32) -> bool {
    let at = shard - first;
    opened = at;
    return at < SHARDS; // not `opened`: what a variable of an invocation holds is not uniform by WGSL's rules
}

fn weight_quad(i: u32) -> vec4<u32> {
    switch opened {
        case 1u: { return weights_1[i]; }
#if SHARDS_4
        case 2u: { return weights_2[i]; }
        case 3u: { return weights_3[i]; }
#endif
#if SHARDS_8
        case 4u: { return weights_4[i]; }
        case 5u: { return weights_5[i]; }
        case 6u: { return weights_6[i]; }
        case 7u: { return weights_7[i]; }
#endif
        default: { return weights[i]; }
    }
}

fn weight_word(i: u32) -> u32 {
    switch opened {
        case 1u: { return weights_1[i >> 2u][i & 3u]; }
#if SHARDS_4
        case 2u: { return weights_2[i >> 2u][i & 3u]; }
        case 3u: { return weights_3[i >> 2u][i & 3u]; }
#endif
#if SHARDS_8
        case 4u: { return weights_4[i >> 2u][i & 3u]; }
        case 5u: { return weights_5[i >> 2u][i & 3u]; }
        case 6u: { return weights_6[i >> 2u][i & 3u]; }
        case 7u: { return weights_7[i >> 2u][i & 3u]; }
#endif
        default: { return weights[i >> 2u][i & 3u]; }
    }
}
#else
fn weight_quad(i: u32) -> vec4<u32> {
    return weights[i];
}

fn weight_word(i: u32) -> u32 {
    return weights[i >> 2u][i & 3u];
}
#endif

// The dot product of two runs of 16.
fn dot16(a: mat4x4<f32>, b: mat4x4<f32>) -> f32 {
    return (dot(a[0], b[0]) + dot(a[1], b[1])) + (dot(a[2], b[2]) + dot(a[3], b[3]));
}
