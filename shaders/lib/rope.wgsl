// Rotary position embedding (arXiv 2104.09864): pairs of lanes turn by angles from a table, since WGSL bounds sin and cos only
// within 2^-11. ADJACENT: the lanes of pair i are (2i, 2i + 1); else (i, i + params.pairs).
fn turned(v: vec2<f32>, turn: vec2<f32>) -> vec2<f32> {
    return vec2(v.x * turn.x - v.y * turn.y, v.x * turn.y + v.y * turn.x);
}

fn lanes(pair: u32) -> vec2<u32> {
#if ADJACENT
    return vec2(2u * pair, 2u * pair + 1u);
#else
    return vec2(pair, pair + params.pairs);
#endif
}
