// Weights of the formats whose integers are 0 to 127.
fn decode16(row: u32, tail: u32, run: u32) -> mat4x4<f32> {
    let w = quants16(row, tail, run);
    return scale_bytes(w.q, w.scale, w.offset);
}

