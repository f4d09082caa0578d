//! Answers within budgets of GPU time: whatever the budget, the same bits.

use super::*;
use halogen::formats::Format;
use halogen::gpu::DeviceProfile;
use halogen::memory::expert_bytes;
use halogen::session::{Budget, Checkpoints, Sampling, Token};
use std::time::Duration;

/// What an app would get that asks and then advances once a frame.
fn advanced(session: &mut Session, prompt: &[u32], sampling: &Sampling, limit: usize, budget: Budget) -> Vec<Token> {
    session.ask(prompt, sampling, &[], limit).expect("an answer");
    let mut tokens = Vec::new();
    while session.is_answering() {
        tokens.extend(session.advance(budget).expect("a device"));
    }
    tokens
}

/// Limits so low that all but the smallest dispatches are cut into slices.
fn slow() -> SessionOptions {
    let limits = DeviceProfile {
        stream_bytes_per_second: 1e6,
        flops_per_second: 1e7,
        // Products are computed as without limits.
        dot_ops_per_second: 1e6,
        dispatch_seconds: 1e-6,
        ..gpu().assumed_limits()
    };
    SessionOptions { limits: Some(limits), chunk: 16, ..f32_cache() }
}

fn budgets() -> [Budget; 4] {
    let time = |micros| Budget::gpu_time(Duration::from_micros(micros));
    [time(0), time(300), time(5_000), Budget::unlimited()]
}

#[test]
fn answers_do_not_depend_on_the_time_that_is_lent() {
    let made = ["llama", "qwen3moe", "qwen3next", "deepseek2", "deepseek4"]
        .map(|name| (name, Made::new(name, Format::F16, &TINY).load().expect("a model"), agreement::some_tokens(40)));
    for (name, model, tokens) in std::iter::once(("demo", demo(), prompt())).chain(made) {
        let mut plain = session(&model, SessionOptions { chunk: 16, ..f32_cache() });
        for sampling in [Sampling::greedy(), Sampling { seed: 7, ..Sampling::default() }] {
            plain.clear();
            let expected = answer(&mut plain, &tokens, &sampling, 6);
            for budget in budgets() {
                let mut lent = session(&model, slow());
                let said = advanced(&mut lent, &tokens, &sampling, 6, budget);
                assert_eq!(said.iter().map(|t| t.id).collect::<Vec<_>>(), expected, "{name}, {budget:?}");
                assert_eq!(lent.history(), plain.history(), "{name}, {budget:?}");
            }
        }
    }
}

/// Keys and values are written by every dispatch before them: bit for bit, whatever the slices.
#[test]
fn slices_leave_the_same_bits_behind() {
    let mut models: Vec<(&str, Arc<Model>, Vec<u32>)> = vec![("demo", demo(), prompt())];
    for name in ["llama", "qwen3moe", "glm-dsa", "gemma4", "qwen35moe"] {
        models.push((name, Made::new(name, Format::F16, &TINY).load().expect("a model"), agreement::some_tokens(24)));
    }
    for (name, model, tokens) in models {
        let kept = |budget| {
            let mut lent = session(&model, slow());
            advanced(&mut lent, &tokens, &Sampling::greedy(), 4, budget);
            let read = |view| model.gpu().blocking_read::<u32>(view).expect("the cache");
            lent.cache().layers.iter().flat_map(|layer| layer.views()).map(read).collect::<Vec<_>>()
        };
        let whole = kept(Budget::unlimited());
        assert!(whole.iter().flatten().any(|word| *word != 0));
        for budget in [Duration::ZERO, Duration::from_millis(3)].map(Budget::gpu_time) {
            assert!(kept(budget) == whole, "{name}, {budget:?}");
        }
        // No slice was made here: the limits are those of the device.
        let mut plain = session(&model, SessionOptions { chunk: 16, ..f32_cache() });
        let mut sliced = session(&model, SessionOptions { submit: Some(Duration::ZERO), ..slow() });
        for chunk in [16, 1] {
            let expected = plain.blocking_logits(&tokens, chunk).expect("logits");
            assert!(
                bits(&sliced.blocking_logits(&tokens, chunk).expect("logits")) == bits(&expected),
                "{name}, {chunk}"
            );
        }
    }
}

#[test]
fn experts_come_while_the_app_draws() {
    let gguf = store::embedded();
    let expected = answer(&mut session(&demo(), SessionOptions::default()), &prompt(), &Sampling::greedy(), 12);
    for share in [25, 50] {
        let model = store::limited(&gguf, expert_bytes(&gguf) * share / 100);
        for budget in budgets() {
            let options = SessionOptions { chunk: 4, ..SessionOptions::default() };
            // Two answers in turn, each a step ahead of the other's slots.
            let mut sessions = [0, 1].map(|_| session(&model, options.clone()));
            let mut said = [Vec::new(), Vec::new()];
            for s in &mut sessions {
                s.ask(&prompt(), &Sampling::greedy(), &[], 12).expect("an answer");
            }
            while sessions.iter().any(Session::is_answering) {
                for (s, ids) in sessions.iter_mut().zip(&mut said) {
                    ids.extend(s.advance(budget).expect("a device").iter().map(|t| t.id));
                }
            }
            assert_eq!(said, [expected.clone(), expected.clone()], "{share} %, {budget:?}");
        }
        assert!(model.store_stats().expect("a store").misses > 0);
    }
}

#[test]
fn a_stopped_answer_lets_others_have_the_experts() {
    let gguf = store::embedded();
    let model = store::limited(&gguf, expert_bytes(&gguf) / 4);
    let expected = answer(&mut session(&demo(), SessionOptions::default()), &prompt(), &Sampling::greedy(), 4);
    let mut other = session(&model, SessionOptions::default());
    for frames in [1, 2, 5, 20] {
        let mut stopped = session(&model, SessionOptions::default());
        stopped.ask(&prompt(), &Sampling::greedy(), &[], 12).expect("an answer");
        for _ in 0..frames {
            stopped.advance(Budget::gpu_time(Duration::ZERO)).expect("a device");
        }
        stopped.stop();
        other.clear();
        assert_eq!(answer(&mut other, &prompt(), &Sampling::greedy(), 4), expected, "after {frames} frames");
        assert_eq!(answer(&mut stopped, &prompt(), &Sampling::greedy(), 4), expected, "after {frames} frames");
    }
}

/// Recurrent states and windows go back by a checkpoint, a part a frame, however often it is asked in between.
#[test]
fn a_turn_that_goes_back_over_several_frames_says_the_same() {
    for name in ["qwen3next", "gemma4"] {
        let model = Made::new(name, Format::F16, &TINY).load().expect("a model");
        let first = agreement::some_tokens(70);
        let checkpoints = Checkpoints { interval: 16, ..Checkpoints::default() };
        let made = || {
            let mut session = session(&model, SessionOptions { checkpoints, ..slow() });
            answer(&mut session, &first, &Sampling::greedy(), 6);
            session
        };
        let prompt = [&first[..40], &[1; 20]].concat();
        let expected = answer(&mut made(), &prompt, &Sampling::greedy(), 6);
        for micros in [0, 300, 5_000] {
            let budget = Duration::from_micros(micros);
            let mut lent = made();
            for _ in 0..2 {
                // Left before the checkpoint is back, or with a part of it.
                lent.ask(&prompt, &Sampling::greedy(), &[], 6).expect("an answer");
                assert!(lent.stats().cached_tokens > 0, "{name}: there is no checkpoint to go back to");
                lent.advance(Budget::gpu_time(budget)).expect("a device");
            }
            lent.ask(&prompt, &Sampling::greedy(), &[], 6).expect("an answer");
            let mut said = Vec::new();
            while lent.is_answering() {
                said.extend(lent.advance(Budget::gpu_time(budget)).expect("a device").iter().map(|t| t.id));
            }
            assert_eq!(said, expected, "{name}, {budget:?}");
        }
    }
}

/// What checkpoints copy at a turn's start, within its prompt and at its end is part of what is given.
#[test]
fn checkpoints_stay_within_the_budget() {
    for name in ["qwen3next", "gemma4"] {
        let model = Made::new(name, Format::F16, &TINY).load().expect("a model");
        let checkpoints = Checkpoints { interval: 16, ..Checkpoints::default() };
        let mut session = session(&model, SessionOptions { checkpoints, ..slow() });
        let tokens = agreement::some_tokens(70);
        let budget = Duration::from_millis(3);
        let mut several = false;
        for prompt in [&tokens[..40], &tokens[..60], &[&tokens[..30], &[1; 20]].concat()] {
            session.ask(prompt, &Sampling::greedy(), &[], 4).expect("an answer");
            while session.is_answering() {
                session.advance(Budget::gpu_time(budget)).expect("a device");
                let (given, parts) = (session.given(), session.parts_given());
                assert!(given <= budget || parts == 1, "{name}: {given:?} were given at once, in {parts} parts");
                several |= parts > 1;
            }
        }
        assert!(several, "{name}: no two parts at once");
    }
}

#[test]
fn an_app_can_read_tokens_and_logits_on_the_device() {
    let mut session = session(&demo(), SessionOptions { run_ahead: Some(0), ..SessionOptions::default() });
    let said = advanced(&mut session, &prompt(), &Sampling::greedy(), 5, Budget::unlimited());
    for view in [session.token_buffer(), session.logits_buffer()] {
        assert!(view.buffer.usage().contains(wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC));
    }
    let read = |view| session.model().gpu().blocking_read::<u32>(view).expect("a buffer");
    let (ids, logits) = (read(session.token_buffer()), read(session.logits_buffer()));
    let from = prompt().len();
    assert_eq!(ids[from..from + 5], said.iter().map(|t| t.id).collect::<Vec<_>>());
    let logits = logits[..demo().shape().vocabulary].iter().map(|bits| f32::from_bits(*bits));
    let best = logits.enumerate().max_by(|a, b| a.1.total_cmp(&b.1));
    assert_eq!(best.map(|(id, _)| id as u32), said.last().map(|t| t.id));
}

#[test]
fn what_is_given_stays_within_the_budget() {
    let mut session = session(&demo(), f32_cache());
    let budget = Duration::from_millis(4);
    session.ask(&prompt(), &Sampling::greedy(), &[], 8).expect("an answer");
    let mut most = Duration::ZERO;
    while session.is_answering() {
        session.advance(Budget::gpu_time(budget)).expect("a device");
        let (given, parts) = (session.given(), session.parts_given());
        // A device that is busy otherwise makes a workgroup seem long: it goes alone then.
        assert!(given <= budget || parts == 1, "{given:?} were given at once, in {parts} parts");
        most = most.max(given);
    }
    assert!(!most.is_zero());
    session.ask(&prompt(), &Sampling::greedy(), &[], 8).expect("an answer");
    session.advance(Budget::gpu_time(budget)).expect("a device");
    session.stop();
    for _ in 0..1000 {
        std::thread::sleep(Duration::from_millis(1));
        assert!(session.advance(Budget::gpu_time(budget)).expect("a device").is_empty());
    }
    assert!(session.given().is_zero(), "what a stopped answer was given does not end");
    let used = session.gpu_use();
    assert!(used.submits > 8 && used.estimated > Duration::ZERO, "{used:?}");
}

#[test]
fn no_frame_compiles_a_kernel_or_makes_a_buffer_of_the_sessions() {
    let gpu = own_gpu();
    for name in ["llama", "qwen3moe", "qwen35moe", "deepseek2", "glm-dsa", "experts that come and go"] {
        let model = match name {
            "experts that come and go" => {
                let gguf = store::embedded();
                store::limited_on(&gpu, &gguf, expert_bytes(&gguf) / 4)
            }
            _ => load(&gpu, &Made::new(name, Format::F16, &TINY).gguf()).expect("a model"),
        };
        let mut session = session(&model, SessionOptions { chunk: 16, ..slow() });
        let made = (gpu.kernels_compiled(), session.bytes());
        let prompts = [agreement::some_tokens(75), agreement::some_tokens(90), agreement::some_tokens(3)];
        for (prompt, limit) in prompts.iter().zip([60, 3, 9]) {
            session
                .ask(prompt, &Sampling { repeat_penalty: 1.1, ..Sampling::default() }, &[], limit)
                .expect("an answer");
            let mut said = 0;
            // A step is cut short and goes on frames later; then an answer is left in the middle.
            for frame in 0.. {
                let budget = Budget::gpu_time(Duration::from_millis(frame % 7));
                said += session.advance(budget).expect("a device").len();
                assert_eq!((gpu.kernels_compiled(), session.bytes()), made, "{name}, frame {frame}");
                if !session.is_answering() || (limit == 60 && said > 40) {
                    break;
                }
            }
        }
    }
}

#[test]
fn a_dropped_session_and_model_leave_the_device_as_it_was() {
    let gpu = own_gpu();
    let allocated = || {
        gpu.poll().expect("a device");
        gpu.device().generate_allocator_report().map(|report| report.allocations.len())
    };
    if allocated().is_none() {
        eprintln!("skipped: the backend reports no allocations");
        return;
    }
    let use_it = |stop: usize| {
        let model = load(&gpu, &store::embedded()).expect("a model");
        let before = allocated();
        let mut session = session(&model, SessionOptions::default());
        session.ask(&prompt(), &Sampling::greedy(), &[], 12).expect("an answer");
        let mut tokens = 0;
        while session.is_answering() && tokens < stop {
            tokens += session.advance(Budget::gpu_time(Duration::from_millis(5))).expect("a device").len();
        }
        let during = allocated();
        drop(session);
        gpu.blocking_wait().expect("a device");
        assert_eq!(allocated(), before, "a session leaves buffers behind");
        assert!(during > before);
    };
    // What kernels look up stays with them.
    use_it(12);
    gpu.blocking_wait().expect("a device");
    let baseline = allocated();
    for stop in [12, 3] {
        use_it(stop);
        gpu.blocking_wait().expect("a device");
        assert_eq!(allocated(), baseline, "a model leaves buffers behind");
    }
}

#[test]
fn a_device_that_is_lost_ends_the_answer_with_an_error() {
    for frames in [0, 1, 3] {
        let gpu = own_gpu();
        let model = load(&gpu, &store::embedded()).expect("a model");
        let mut sessions = [0, 1].map(|_| session(&model, SessionOptions::default()));
        for s in &mut sessions {
            s.ask(&prompt(), &Sampling::greedy(), &[], 50).expect("an answer");
            for _ in 0..frames {
                s.advance(Budget::gpu_time(Duration::from_millis(1))).expect("a device");
            }
        }
        gpu.device().destroy();
        for s in &mut sessions {
            // What was given may still run: nobody is told before it has ended.
            let error = (0..2000).find_map(|_| {
                std::thread::sleep(Duration::from_millis(1));
                s.advance(Budget::gpu_time(Duration::from_millis(1))).err()
            });
            assert!(error.is_some(), "nobody was told, after {frames} frames");
            assert!(!s.is_answering() && s.advance(Budget::unlimited()).expect("nothing").is_empty());
            let mut tokens = s.generate(&prompt(), &Sampling::greedy(), &[], 5);
            let said = tokens.as_mut().map(|tokens| tokens.blocking_next());
            assert!(!matches!(said, Ok(Ok(_))), "a lost device answers");
        }
    }
}

/// Kernels that go in one piece, and why no budget is exceeded for long.
const WHOLE: [(&str, &str); 5] = [
    ("expert_group", "one workgroup: it counts the step's rows"),
    ("expert_lookup", "one workgroup: it looks up the step's rows"),
    ("sample", "one workgroup: it joins sorted slices"),
    ("sample_slices", "reads the logits once"),
    ("attention_combine", "reads the sums of 64 splits at most"),
];

#[test]
fn every_operator_that_grows_with_a_model_is_divisible() {
    for name in ["llama", "qwen3moe", "qwen3next", "deepseek2", "deepseek4", "glm-dsa", "gemma4", "llama4"] {
        let model = Made::new(name, Format::F16, &TINY).load().expect("a model");
        let mut session = session(&model, slow());
        for tokens in [1, 2, 16] {
            for d in &session.step_recording(tokens).expect("a recording").dispatches {
                let shader = d.kernel.spec.shader;
                let cut = d.kernel.params.iter().any(|(name, _)| name == "first_group" || name == "first_z");
                assert!(cut || WHOLE.iter().any(|(whole, _)| *whole == shader), "{name}: {shader} goes in one piece");
            }
        }
    }
}
