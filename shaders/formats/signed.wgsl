// Weights of the formats whose integers are negative, too, and have no offset. Flipping the sign bit adds 128: bytes turn to
// floats in one instruction where they are unsigned (v_cvt_f32_ubyte); to flip the signs of floats takes 19 instructions
// more (gfx1100).
fn decode16(row: u32, tail: u32, run: u32) -> mat4x4<f32> {
    let w = quants16(row, tail, run);
    return scale_bytes(w.q ^ vec4<u32>(0x80808080u), w.scale, -128.0 * w.scale);
}

