// What a gated MLP makes of its two projections: silu(gate) * up, or by flag
//   GELU   gelu(gate) * up, the approximation by tanh
//   CLAMPED   gate * sigmoid(1.702 gate) * (up + 1), gate at most 7, up within 7
//   LIMITED   min(silu(gate), params.limit) * up, up within the limit
//   CAPPED    silu(min(gate, params.limit)) * up, up within the limit

// x / (1 + e^-(a x)); a driver may assume that no infinity occurs.
fn swish(x: f32, a: f32) -> f32 {
    return x / (1.0 + exp(min(-a * x, 80.0)));
}

#if GELU
// 0.5 x (1 + tanh(u)) = x / (1 + e^-2u), u = sqrt(2 / pi) (x + 0.044715 x^3)
fn gated(gate: f32, up: f32) -> f32 {
    return swish(gate, 1.5957691216057308 * (1.0 + 0.044715 * gate * gate)) * up;
}
#else
#if CLAMPED
fn gated(gate: f32, up: f32) -> f32 {
    return swish(min(gate, 7.0), 1.702) * (clamp(up, -7.0, 7.0) + 1.0);
}
#else
#if LIMITED
fn gated(gate: f32, up: f32) -> f32 {
    return min(swish(gate, 1.0), params.limit) * clamp(up, -params.limit, params.limit);
}
#else
#if CAPPED
fn gated(gate: f32, up: f32) -> f32 {
    return swish(min(gate, params.limit), 1.0) * clamp(up, -params.limit, params.limit);
}
#else
fn gated(gate: f32, up: f32) -> f32 {
    return swish(gate, 1.0) * up;
}
#endif
#endif
#endif
#endif
