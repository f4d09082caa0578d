// Moves the convolution's past on: the last TAPS - 1 inputs; where the step has fewer, older ones move up. An invocation takes
// the channels from `first` on, `stride` apart.
fn move_past(first: u32, stride: u32, channels: u32) {
    for (var channel = first; channel < channels; channel += stride) {
        for (var i = 0u; i + 1u < TAPS; i++) {
            var input = 0.0;
            let next = i + params.tokens;
            if next + 1u >= TAPS {
                input = x[(next + 1u - TAPS) * params.stride + channel];
            } else if state.position + next + 1u >= TAPS {
                input = past[next * channels + channel];
            }
            past[i * channels + channel] = input;
        }
    }
}
