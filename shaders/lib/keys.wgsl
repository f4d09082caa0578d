// Floats as keys that sort as numbers do: a key rises with its value, and none of a finite value is 0.
fn key_of(value: f32) -> u32 {
    let bits = bitcast<u32>(value);
    return bits ^ select(0x80000000u, 0xffffffffu, (bits >> 31u) == 1u);
}

fn value_of(key: u32) -> f32 {
    return bitcast<f32>(key ^ select(0xffffffffu, 0x80000000u, (key >> 31u) == 1u));
}

// How far a key's value lies below `high`, as far as e to the power of it counts: the difference of two finite floats need not
// be finite.
fn below(key: u32, high: f32) -> f32 {
    return 2.0 * max(0.5 * value_of(key) - 0.5 * high, -5000.0);
}
