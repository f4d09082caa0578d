// Products of a format's integers with activations that lib/quantise has rounded, in x.
struct Quantised {
    q: vec4<u32>,    // sixteen i8
    scale: f32,
    sum: f32,        // scale times the sum of the i8
}

// Run `run` of the row whose first quad is `row`.
fn quantised16(row: u32, run: u32) -> Quantised {
    let block = row + 3u * (run >> 1u);
    let scales = bitcast<vec4<f32>>(x[block + 2u]);
    return Quantised(x[block + (run & 1u)], scales.x, select(scales.y, scales.z, (run & 1u) == 1u));
}

fn integer_dot16(w: Quants, v: Quantised) -> f32 {
    // One after the other, since hardware adds to a sum as it multiplies.
    let sum = dot4I8Packed(w.q.x, v.q.x) + dot4I8Packed(w.q.y, v.q.y) + dot4I8Packed(w.q.z, v.q.z)
        + dot4I8Packed(w.q.w, v.q.w);
    return fma(w.scale * v.scale, f32(sum), w.offset * v.sum);
}
