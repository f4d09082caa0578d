//! What a token costs: dispatches, submits, read-backs, kernels.

use super::synthetic::{EXPERTS, model, preset};
use super::*;
use halogen::formats::Format;
use halogen::gpu::Timing;
use halogen::ops::Arithmetic;
use halogen::presets::{Mixture, models};
use halogen::session::Sampling;
use std::collections::BTreeSet;
use std::time::Duration;

/// Dispatches of each layer of a decode step; the embedding counts to layer 0, the head is the last.
fn per_layer(session: &Session) -> Vec<usize> {
    let recording = session.decode_recording();
    let layers = session.cache().layers.len();
    let mut counts = vec![0; layers + 1];
    for dispatch in &recording.dispatches {
        counts[dispatch.layer as usize] += 1;
    }
    counts
}

fn dispatches(made: &Made) -> Vec<usize> {
    per_layer(&session(&made.load().expect("a model"), SessionOptions::default()))
}

#[test]
fn dense_layers_take_7_dispatches_and_mixtures_9() {
    // A shared expert of the others' type and size takes none of its own.
    for (name, most) in [
        ("llama", 7),
        ("qwen2", 7),
        ("qwen3", 7),
        ("qwen3moe", 9),
        ("glm4moe", 9),
        ("llama4", 9),
        ("deepseek2", 11),
        ("deepseek4", 20),
        ("glm-dsa", 15),
        ("step35", 9),
        ("gemma4", 14),
    ] {
        let counts = dispatches(&Made::new(name, Format::F16, &TINY));
        // One for the embedding, three for the head: logits and sampling's two; Gemma 4 caps its logits.
        let head = 3 + usize::from(name == "gemma4");
        assert!(counts[0] <= most + 1 && counts[1] <= most && counts[2] <= head, "{name}: {counts:?}");
    }
}

/// The table of docs/models.md: `| architecture | dispatches |`.
#[test]
fn the_documented_dispatches_are_those_of_recordings() {
    let mut documented = BTreeSet::new();
    for line in include_str!("../../docs/models.md").lines().filter(|line| line.starts_with("| `")) {
        let mut cells = line.split('|').map(str::trim).skip(1);
        let name = cells.next().expect("an architecture").trim_matches('`');
        let said: usize = cells.next().expect("a number").parse().expect("a number");
        // What `Made` has not is made up like a preset.
        let model = match name {
            "gemma3" | "mistral3" => model(&preset(name, ""), Mixture::Pure(Format::F16), 1),
            "gpt-oss" => model(&preset(name, EXPERTS), Mixture::Pure(Format::F16), 1),
            _ => Made::new(name, Format::F16, &TINY).load().expect("a model"),
        };
        let mut counts = per_layer(&session(&model, SessionOptions::default()));
        counts.pop();
        counts[0] -= 1; // the embedding
        assert_eq!(counts.iter().max(), Some(&said), "{name}: {counts:?}");
        documented.insert(name);
    }
    let missing = models().iter().find(|preset| !documented.contains(preset.architecture.as_str()));
    assert!(missing.is_none(), "{} is not in the table", missing.unwrap().architecture);
}

#[test]
fn delta_nets_take_4_dispatches_and_gated_attention_6() {
    // Layer 0 is a delta net, layer 1 attends; then come 2 of an MLP, or 4 of a mixture with a shared expert in its stacks.
    for (name, most) in [("qwen35", [6, 8]), ("qwen35moe", [8, 10]), ("qwen3next", [8, 10])] {
        let counts = dispatches(&Made::new(name, Format::F16, &TINY));
        assert!(counts[0] <= most[0] + 1 && counts[1] <= most[1] && counts[2] <= 3, "{name}: {counts:?}");
    }
}

#[test]
fn a_further_format_takes_one_dispatch_more() {
    for (name, tensor, dims) in [
        ("qwen3moe", "attn_v.weight", [TINY.hidden, TINY.kv_heads * TINY.head_dim, 1]),
        ("qwen3moe", "ffn_up_exps.weight", [TINY.hidden, TINY.ff, TINY.experts]),
        ("llama", "attn_k.weight", [TINY.hidden, TINY.kv_heads * TINY.head_dim, 1]),
        ("llama", "ffn_gate.weight", [TINY.hidden, TINY.ff, 1]),
    ] {
        let mut made = Made::new(name, Format::F16, &TINY);
        let plain = dispatches(&made);
        made.matrix(&format!("blk.1.{tensor}"), &dims, Format::F32, 0.3);
        assert_eq!(dispatches(&made), [plain[0], plain[1] + 1, plain[2]], "{name}, {tensor}");
    }
}

#[test]
fn a_shared_expert_of_another_type_takes_two_dispatches_more() {
    let mut made = Made::new("glm4moe", Format::F16, &TINY);
    let plain = dispatches(&made);
    made.matrix("blk.1.ffn_down_shexp.weight", &[TINY.ff, TINY.hidden], Format::F32, 0.3);
    assert_eq!(dispatches(&made), [plain[0], plain[1] + 2, plain[2]]);
}

#[test]
fn a_token_is_one_submit_and_one_read_back() {
    let mut session = session(&demo(), SessionOptions::default());
    let mut generation = session.generate(&prompt(), &Sampling::greedy(), &[], 8).expect("a generation");
    let tokens = collect(&mut generation);
    let stats = generation.stats();
    assert_eq!(tokens.len(), 8);
    assert_eq!((stats.prompt_tokens, stats.cached_tokens, stats.generated_tokens), (prompt().len(), 0, 8));
    // The first token comes from the prompt's step. A read-back is what a step ends with.
    assert_eq!((stats.prefill_submits, stats.decode_steps, stats.decode_submits), (1, 7, 7));
}

#[test]
fn a_recording_can_be_entered_at_any_layer() {
    let session = session(&demo(), SessionOptions::default());
    let (recording, layers) = (session.decode_recording(), session.cache().layers.len() as u32);
    let starts: Vec<usize> = (0..=layers).map(|l| recording.layer_start(l).expect("a layer")).collect();
    assert_eq!(starts[0], 0);
    assert!(starts.is_sorted_by(|a, b| a < b));
    assert_eq!(recording.layer_start(layers + 1), None);
}

#[test]
fn no_prompt_compiles_a_kernel() {
    let gpu = own_gpu();
    for name in ["llama", "llama4", "qwen3moe", "qwen35moe", "deepseek2", "deepseek4", "glm-dsa"] {
        let model = load(&gpu, &Made::new(name, Format::F16, &TINY).gguf()).expect("a model");
        let mut session = session(&model, SessionOptions { chunk: 16, ..SessionOptions::default() });
        let compiled = gpu.kernels_compiled();
        for length in [1, 2, 3, 4, 9, 16, 17, 18, 40] {
            session.clear();
            let prompt: Vec<u32> = (0..length).collect();
            answer(&mut session, &prompt, &Sampling::greedy(), 3);
            answer(&mut session, &prompt, &Sampling { repeat_penalty: 1.1, ..Sampling::default() }, 3);
            assert_eq!(gpu.kernels_compiled(), compiled, "{name}: a prompt of {length} tokens");
        }
    }
}

#[test]
fn a_session_is_made_ready_in_slices() {
    let gpu = own_gpu();
    for name in ["llama", "qwen3moe", "qwen35moe", "glm-dsa"] {
        let model = load(&gpu, &Made::new(name, Format::F16, &TINY).gguf()).expect("a model");
        let before = gpu.kernels_compiled();
        let mut warm_up = model.warm_up(&SessionOptions::default()).expect("a warm-up");
        assert_eq!(gpu.kernels_compiled(), before, "{name}: nothing is compiled before it is asked for");
        let (mut slices, mut last) = (0, warm_up.progress());
        while !warm_up.advance(Duration::ZERO).expect("kernels") {
            let now = warm_up.progress();
            assert!(now.0 > last.0 && now.0 < now.1 && !warm_up.is_done(), "{name}: {last:?}, then {now:?}");
            (slices, last) = (slices + 1, now);
        }
        let (done, total) = warm_up.progress();
        assert!(
            done == total && slices > 5 && gpu.kernels_compiled() > before,
            "{name}: {done} of {total}, {slices} slices"
        );
        let compiled = gpu.kernels_compiled();
        let mut session = warm_up.finish().expect("a session");
        assert_eq!(answer(&mut session, &[1, 2, 3], &Sampling::greedy(), 3).len(), 3, "{name}");
        assert_eq!(gpu.kernels_compiled(), compiled, "{name}");
    }
}

/// What is warmed up for a few lengths serves all.
#[test]
fn no_length_of_a_step_compiles_a_kernel() {
    let gpu = own_gpu();
    let wide = Sizes { hidden: 256, heads: 8, head_dim: 32, ff: 512, ..TINY };
    let plain = ["llama", "gemma4", "qwen3next", "deepseek2", "deepseek4", "glm-dsa", "step35"];
    let plain = plain.map(|name| (name, Format::F16, &TINY, None));
    let rounded = ["llama", "qwen3moe"].map(|name| (name, Format::Q8_0, &wide, Some(Arithmetic::Dot)));
    for (name, format, sizes, force) in plain.into_iter().chain(rounded) {
        let model = load(&gpu, &Made::new(name, format, sizes).gguf()).expect("a model");
        let mut session = session(&model, SessionOptions { force, ..SessionOptions::default() });
        let compiled = gpu.kernels_compiled();
        for length in (1..12).chain([15, 16, 17, 31, 33, 63, 65, 100, 129, 255, 257, 511, 512]) {
            session.step_recording(length).expect("a recording");
            assert_eq!(gpu.kernels_compiled(), compiled, "{name}, {force:?}: {length} tokens");
        }
    }
}

#[test]
fn a_session_takes_the_memory_that_it_says() {
    let wide = Sizes { hidden: 256, heads: 8, head_dim: 32, ff: 512, vocabulary: 2000, ..TINY };
    let mut models: Vec<Arc<Model>> = vec![demo()];
    for name in [
        "llama",
        "qwen2",
        "qwen3",
        "qwen3moe",
        "glm4moe",
        "llama4",
        "deepseek2",
        "deepseek4",
        "glm-dsa",
        "step35",
        "gemma4",
    ]
    .into_iter()
    .chain(HYBRIDS)
    {
        models.push(Made::new(name, Format::F16, &wide).load().expect("a model"));
    }
    for model in models {
        takes_what_it_says(&model, &SessionOptions::default());
    }
}

#[test]
fn a_session_that_rounds_inputs_to_integers_takes_the_memory_that_it_says() {
    let wide = Sizes { hidden: 256, heads: 8, head_dim: 32, ff: 512, vocabulary: 2000, ..TINY };
    let options = SessionOptions { force: Some(Arithmetic::Dot), ..SessionOptions::default() };
    for name in ["llama", "qwen3moe", "glm4moe", "qwen35moe"] {
        takes_what_it_says(&Made::new(name, Format::Q8_0, &wide).load().expect("a model"), &options);
    }
}

fn takes_what_it_says(model: &Arc<Model>, options: &SessionOptions) {
    for (context, chunk) in [(64, 64), (1000, 512), (4096, 64)] {
        let options = SessionOptions { context: Some(context), room: context, chunk, ..options.clone() };
        let mut session = session(model, options.clone());
        let made = session.bytes();
        let said = Session::needs(model.shape(), &options).total();
        // Small buffers are not counted one by one.
        assert!(made <= said + said / 20 + 65536, "{made} bytes made, {said} said");
        assert!(said <= made + made / 5, "{made} bytes made, {said} said");
        answer(&mut session, &[1; 50], &Sampling::greedy(), 3);
        assert_eq!(session.bytes(), made, "an answer made buffers");
    }
}

#[test]
fn every_dispatch_is_timed_in_every_way_that_the_device_has() {
    let gpu = own_gpu();
    let model = load(&gpu, &Made::new("qwen3moe", Format::F16, &TINY).gguf()).expect("a model");
    let session = session(&model, SessionOptions::default());
    let recording = session.decode_recording();
    let ways = match gpu.timing() {
        Timing::InPass => vec![Timing::InPass, Timing::PassEach, Timing::Slope],
        Timing::PassEach => vec![Timing::PassEach, Timing::Slope],
        Timing::Slope => vec![Timing::Slope],
    };
    for way in ways {
        let times = gpu.blocking_profile(recording, way).expect("times");
        let kernels: Vec<String> = recording.dispatches.iter().map(|d| d.kernel.spec.to_string()).collect();
        assert_eq!(times.iter().map(|t| t.kernel.clone()).collect::<Vec<_>>(), kernels, "{way:?}");
        assert!(times.iter().all(|t| t.time < Duration::from_secs(1)), "{way:?}: {times:?}");
        assert!(times.iter().any(|t| !t.time.is_zero()), "{way:?}");
    }
}
