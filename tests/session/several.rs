//! Layers on several devices: the bits of one. Both are opened on the adapter that other tests compute on.

use super::agreement::some_tokens;
use super::*;
use halogen::formats::Format;
use halogen::gguf::Gguf;
use halogen::gpu::{Gpu, Selector};
use halogen::memory::{Backing, Placement, PlacementOptions, Span};
use halogen::session::{Budget, Checkpoints, Conversation, Sampling, Share};
use std::sync::OnceLock;
use std::time::Duration;

const SIZES: Sizes = Sizes { layers: 5, context: 256, ..TINY };
const NAMES: [&str; 11] = [
    "llama",
    "qwen2",
    "qwen3moe",
    "glm4moe",
    "gemma4",
    "step35",
    "llama4",
    "deepseek2",
    "glm-dsa",
    "deepseek4",
    "qwen35moe",
];

fn other() -> &'static Gpu {
    static GPU: OnceLock<Gpu> = OnceLock::new();
    GPU.get_or_init(own_gpu)
}

fn load_shares(shares: &[Share], gguf: &Gguf) -> Arc<Model> {
    pollster::block_on(Model::load_shares(shares, gguf, Backing::Disk, |_| true)).expect("a model")
}

/// Cut before these layers, on the two devices in turn.
fn cut(gguf: &Gguf, cuts: &[usize]) -> Arc<Model> {
    cut_on(gguf, cuts, other())
}

fn cut_on(gguf: &Gguf, cuts: &[usize], other: &Gpu) -> Arc<Model> {
    let gpus = [gpu(), other].into_iter().cycle().cloned();
    let share = |(span, gpu)| Share { gpu, span, placement: Placement::default(), upload: None };
    load_shares(&Span::between(cuts).into_iter().zip(gpus).map(share).collect::<Vec<_>>(), gguf)
}

#[test]
fn logits_do_not_depend_on_the_cut() {
    let tokens = some_tokens(24);
    for name in NAMES {
        let gguf = Made::new(name, Format::F16, &SIZES).gguf();
        let mut whole = session(&load(gpu(), &gguf).expect("a model"), f32_cache());
        let expected = [512, 7, 1].map(|chunk| whole.blocking_logits(&tokens, chunk).expect("logits"));
        for cuts in [&[1][..], &[2], &[4], &[1, 3]] {
            let model = cut(&gguf, cuts);
            assert_eq!(model.devices().count(), cuts.len() + 1);
            let mut parts = session(&model, f32_cache());
            for (expected, chunk) in expected.iter().zip([512, 7, 1]) {
                let found = parts.blocking_logits(&tokens, chunk).expect("logits");
                assert!(bits(&found) == bits(expected), "{name}, cut at {cuts:?}, chunk {chunk}");
            }
        }
    }
}

#[test]
fn answers_do_not_depend_on_the_cut() {
    let tokens = some_tokens(40);
    let seeded = Sampling { seed: 7, repeat_penalty: 1.2, ..Sampling::default() };
    for name in NAMES {
        let gguf = Made::new(name, Format::F16, &SIZES).gguf();
        let options = SessionOptions { chunk: 16, room: 32, ..SessionOptions::default() };
        let models = [load(gpu(), &gguf).expect("a model"), cut(&gguf, &[2])];
        let mut sessions = models.map(|model| session(&model, options.clone()));
        let said = sessions.each_mut().map(|s| {
            let greedy = answer(s, &tokens, &Sampling::greedy(), 20);
            let drawn = answer(s, &[&tokens[..], &greedy, &[5]].concat(), &seeded, 20);
            let back = answer(s, &[&tokens[..30], &[9, 8]].concat(), &seeded, 5);
            (greedy, drawn, back, s.history().to_vec())
        });
        assert!(said[0] == said[1], "{name}: {said:?}");
    }
}

#[test]
fn of_a_prompt_each_device_has_a_chunk() {
    let gguf = Made::new("llama", Format::F16, &SIZES).gguf();
    let mut parts = session(&cut(&gguf, &[1, 3]), SessionOptions { chunk: 8, ..SessionOptions::default() });
    parts.ask(&some_tokens(60), &Sampling::greedy(), &[], 4).expect("an answer");
    parts.advance(Budget::unlimited()).expect("devices");
    assert_eq!(parts.stats().prefill_submits, 3, "a chunk for each of three parts is on its way");
}

/// Neither is waited for, and stops halt both.
#[test]
fn an_app_draws_while_two_devices_answer() {
    let tokens = some_tokens(40);
    let gguf = Made::new("qwen3moe", Format::F16, &SIZES).gguf();
    let options = SessionOptions { chunk: 16, ..SessionOptions::default() };
    let expected =
        answer(&mut session(&load(gpu(), &gguf).expect("a model"), options.clone()), &tokens, &Sampling::greedy(), 30);
    let stop = expected[12];
    let until = expected.iter().position(|id| *id == stop).expect("it is there") + 1;
    let mut parts = session(&cut(&gguf, &[3]), options);
    for _ in 0..2 {
        parts.ask(&tokens, &Sampling::greedy(), &[stop], 30).expect("an answer");
        let mut said = Vec::new();
        while parts.is_answering() {
            let budget = Budget::gpu_time(Duration::from_micros(500));
            said.extend(parts.advance(budget).expect("devices").iter().map(|token| token.id));
        }
        assert_eq!(said, expected[..until]);
    }
}

#[test]
fn each_device_has_a_budget() {
    let (tokens, sizes) = (some_tokens(24), Sizes { layers: 8, ..SIZES });
    for name in ["qwen3moe", "deepseek4", "llama"] {
        let gguf = Made::new(name, Format::F16, &sizes).gguf();
        let mut whole = session(&load(gpu(), &gguf).expect("a model"), f32_cache());
        let expected = whole.blocking_logits(&tokens, 7).expect("logits");
        let said = answer(&mut whole, &tokens, &Sampling::greedy(), 8);
        let mut moved = 0;
        for percent in [80, 60, 40] {
            let share = |(span, gpu): (Span, &Gpu)| {
                let part = gguf.part(|tensor| span.holds(&gguf, &tensor.name));
                let placement = Placement::within(&part, part.data_bytes() * percent / 100).ok()?;
                Some(Share { gpu: gpu.clone(), span, placement, upload: None })
            };
            let spans = Span::between(&[4]).into_iter().zip([gpu(), other()]);
            let Some(shares) = spans.map(share).collect::<Option<Vec<Share>>>() else { continue };
            assert!(shares.iter().all(|share| !share.placement.is_resident()));
            let model = load_shares(&shares, &gguf);
            let mut parts = session(&model, f32_cache());
            let found = parts.blocking_logits(&tokens, 7).expect("logits");
            assert!(bits(&found) == bits(&expected), "{name}, {percent} %");
            assert_eq!(answer(&mut parts, &tokens, &Sampling::greedy(), 8), said, "{name}, {percent} %");
            let stats = model.store_stats().expect("stores");
            moved += stats.misses + stats.streamed;
        }
        assert!(moved > 0, "{name}: no budget was small enough");
    }
}

#[test]
fn conversations_are_saved_and_resumed_on_any_devices() {
    let (tokens, more) = (some_tokens(60), some_tokens(20));
    let conversation = Conversation { sampling: Sampling::greedy(), app: serde_json::json!({}) };
    for name in ["llama", "step35", "deepseek4", "qwen35moe"] {
        let gguf = Made::new(name, Format::F16, &SIZES).gguf();
        let checkpoints = Checkpoints { interval: 20, ..Checkpoints::default() };
        let options = SessionOptions { chunk: 8, run_ahead: Some(0), checkpoints, ..SessionOptions::default() };
        let models = [load(gpu(), &gguf).expect("a model"), cut(&gguf, &[3])];
        let mut sessions = models.each_ref().map(|model| session(model, options.clone()));
        let said = sessions.each_mut().map(|s| answer(s, &tokens, &Sampling::greedy(), 8));
        assert_eq!(said[0], said[1], "{name}");
        let files = sessions.each_mut().map(|s| {
            let mut file = Vec::new();
            s.blocking_save(&mut file, &conversation).expect("memory");
            file
        });
        assert!(files[0] == files[1], "{name}: two devices save another file");
        // On with it, and from a checkpoint.
        for prompt in [[&tokens[..], &said[0], &more].concat(), [&tokens[..50], &more].concat()] {
            let expected = answer(&mut sessions[0], &prompt, &Sampling::greedy(), 8);
            let mut resumed = session(&models[1], options.clone());
            resumed.blocking_resume("talk", files[0].len() as u64, &mut &files[0][..]).expect("a conversation");
            let mut generation = resumed.generate(&prompt, &Sampling::greedy(), &[], 8).expect("a generation");
            let found: Vec<u32> = collect(&mut generation).iter().map(|token| token.id).collect();
            assert_eq!(found, expected, "{name}");
            assert!(generation.stats().cached_tokens >= 40, "{name}: {:?}", generation.stats());
        }
    }
}

#[test]
fn layers_are_shared_out_by_memory_or_refused_by_name() {
    let gguf = Made::new("llama", Format::F16, &SIZES).gguf();
    let among = |gpus: &[Gpu], gguf: &Gguf| {
        let wishes = PlacementOptions { budget: Some(1 << 30), ..PlacementOptions::default() };
        Share::among(gpus, gguf, &SessionOptions::default(), &wishes)
    };
    let two = [gpu().clone(), other().clone()];
    let shares = among(&two, &gguf).expect("two fit");
    let layers: Vec<_> = shares.iter().map(|share| share.span.layers(SIZES.layers)).collect();
    assert!(layers[0].start == 0 && layers[0].end == layers[1].start && layers[1].end == SIZES.layers, "{layers:?}");
    assert_eq!(among(&two[..1], &gguf).expect("one fits")[0].span, Span::whole());
    let model = load_shares(&shares, &gguf);
    assert_eq!(answer(&mut session(&model, SessionOptions::default()), &[1, 2, 3], &Sampling::greedy(), 4).len(), 4);

    let six: Vec<Gpu> = two.iter().cycle().take(6).cloned().collect();
    let refused = among(&six, &gguf).err().expect("five layers on six devices").to_string();
    assert!(refused.contains("its 5 layers cannot lie on 6 devices"), "{refused}");
}

#[test]
fn a_lost_device_ends_the_answer_wherever_it_is() {
    for first in [true, false] {
        let gguf = Made::new("qwen3moe", Format::F16, &SIZES).gguf();
        let own = own_gpu();
        let model = match first {
            false => cut_on(&gguf, &[2], &own),
            true => {
                let shares = Span::between(&[2]).into_iter().zip([&own, gpu()]);
                let share = |(span, gpu): (Span, &Gpu)| Share {
                    gpu: gpu.clone(),
                    span,
                    placement: Placement::default(),
                    upload: None,
                };
                load_shares(&shares.map(share).collect::<Vec<_>>(), &gguf)
            }
        };
        let mut parts = session(&model, SessionOptions::default());
        let mut generation = parts.generate(&[1, 2, 3], &Sampling::greedy(), &[], 50).expect("a generation");
        assert!(generation.blocking_next().expect("a step").is_some());
        own.device().destroy();
        let error = (0..60).find_map(|_| generation.blocking_next().err());
        assert!(error.is_some(), "nobody was told");
        drop(generation);
        assert!(parts.generate(&[1, 2, 3], &Sampling::greedy(), &[], 5).and_then(|mut g| g.blocking_next()).is_err());
    }
}

/// One device finds the memory that its cache grows into later than the other.
#[test]
fn caches_grow_on_each_device_as_memory_comes() {
    let gguf = Made::new("llama", Format::F16, &SIZES).gguf();
    let (model, tokens) = (cut(&gguf, &[2]), some_tokens(7));
    let options = SessionOptions { room: 8, ..f32_cache() };
    let mut whole = session(&load(gpu(), &gguf).expect("a model"), f32_cache());
    let expected = answer(&mut whole, &tokens, &Sampling::greedy(), 60);
    for device in [0, 1] {
        let mut starved = session(&model, options.clone());
        starved.starve(device, 1);
        starved.ask(&tokens, &Sampling::greedy(), &[], 60).expect("an answer");
        let mut said = Vec::new();
        while starved.is_answering() {
            said.extend(starved.advance(Budget::unlimited()).expect("a device").iter().map(|token| token.id));
        }
        assert_eq!(said, expected, "device {device}");
    }
}

/// Devices of two kinds do not round alike.
#[test]
fn two_kinds_of_devices_say_nearly_the_same() {
    let known = gpu().info();
    let of_another_kind =
        |info: &wgpu::AdapterInfo| (&info.name, &info.driver_info) != (&known.name, &known.driver_info);
    let adapters = pollster::block_on(halogen::gpu::adapters());
    let Some(index) = adapters.iter().position(|a| a.unusable.is_none() && of_another_kind(&a.info)) else {
        eprintln!("skipped: this machine has one kind of device, {}", known.name);
        return;
    };
    let other = pollster::block_on(Gpu::new(Selector::Index(index))).expect("an adapter that can be used");
    let tier = other.caps().tier.min(gpu().caps().tier);
    let (tokens, options) = (some_tokens(24), SessionOptions { tier: Some(tier), ..f32_cache() });
    for name in NAMES {
        let gguf = Made::new(name, Format::F16, &SIZES).gguf();
        let whole = session(&load(gpu(), &gguf).expect("a model"), options.clone()).blocking_logits(&tokens, 512);
        let parts = session(&cut_on(&gguf, &[2], &other), options.clone()).blocking_logits(&tokens, 512);
        let error = worst_nmse(&whole.expect("logits"), &parts.expect("logits"), tokens.len());
        println!("{name} on {} and {}: NMSE {error:.1e}", known.driver_info, other.info().driver_info);
        assert!(error <= 1e-6, "{name}: NMSE {error:.3e}");
    }
}
