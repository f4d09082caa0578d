// A chunk of the gated delta rule: what delta_chunks makes of CHUNK tokens of a value head, and delta_states reads. In quads:
//   T [CHUNK, CHUNK], M [CHUNK, CHUNK], from_start [CHUNK], to_end [CHUNK]
const CHUNK: u32 = 32u;
const ROW_QUADS: u32 = CHUNK / 4u;
const M_AT: u32 = CHUNK * ROW_QUADS;
const FROM_START: u32 = 2u * CHUNK * ROW_QUADS;
const TO_END: u32 = FROM_START + ROW_QUADS;
const CHUNK_QUADS: u32 = TO_END + ROW_QUADS;

// sum + m v, as four multiply-adds a lane.
fn add_product(sum: vec4<f32>, m: mat4x4<f32>, v: vec4<f32>) -> vec4<f32> {
    return sum + m[0] * v.x + m[1] * v.y + m[2] * v.z + m[3] * v.w;
}
