// Sixteen inputs of a product, from quad `i` of x on. Columns are a multiple of 4; where they are none of 16 (RAGGED), only
// the first `left` quads are there, and the rest is zero.
fn x16(i: u32, left: u32) -> mat4x4<f32> {
#if RAGGED
    let last = i + min(left, 4u) - 1u;
    let zero = vec4(0.0);
    return mat4x4(x[i], select(zero, x[min(i + 1u, last)], left > 1u), select(zero, x[min(i + 2u, last)], left > 2u),
        select(zero, x[min(i + 3u, last)], left > 3u));
#else
    return mat4x4(x[i], x[i + 1u], x[i + 2u], x[i + 3u]);
#endif
}
