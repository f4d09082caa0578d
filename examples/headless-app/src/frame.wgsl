// The app's own work: a picture that takes a while.
@vertex
fn corner(@builtin(vertex_index) i: u32) -> @builtin(position) vec4<f32> {
    return vec4(f32(i % 2u) * 4.0 - 1.0, f32(i / 2u) * 4.0 - 1.0, 0.0, 1.0);
}

@fragment
fn colour(@builtin(position) at: vec4<f32>) -> @location(0) vec4<f32> {
    var z = vec2(0.0);
    for (var i = 0; i < 64; i++) {
        z = vec2(z.x * z.x - z.y * z.y, 2.0 * z.x * z.y) + at.xy / 128.0 - vec2(1.5, 1.0);
        z = clamp(z, vec2(-4.0), vec2(4.0));
    }
    return vec4(abs(z) / 4.0, 0.5, 1.0);
}
