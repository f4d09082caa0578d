// 1 / (1 + e^-x) and log(1 + e^x); a driver may assume that no infinity occurs.
fn sigmoid(x: f32) -> f32 {
    return 1.0 / (1.0 + exp(min(-x, 80.0)));
}

// WGSL bounds log near 1 only absolutely: log(1 + e) is 2 atanh(e / (2 + e)), by its series, to 1e-9.
fn softplus(x: f32) -> f32 {
    let e = exp(max(-abs(x), -80.0));
    let s = e / (2.0 + e);
    let z = s * s;
    let series = 1.0 + z * (1.0 / 3.0 + z * (0.2 + z * (1.0 / 7.0 + z * (1.0 / 9.0 + z * (1.0 / 11.0
        + z * (1.0 / 13.0 + z / 15.0))))));
    return max(x, 0.0) + 2.0 * s * series;
}
