//! Keys and values that get room as a conversation needs it: the same bits, and nothing that a frame would notice.

use super::agreement::some_tokens;
use super::*;
use halogen::Budget;
use halogen::formats::Format;
use halogen::gpu::View;
use halogen::memory::expert_bytes;
use halogen::session::Sampling;
use std::time::Duration;

const CONTEXT: usize = 250;
const SIZES: Sizes = Sizes { context: CONTEXT, head_dim: 32, ..TINY };

fn options(kv: KvFormat, room: usize) -> SessionOptions {
    SessionOptions { kv, room, chunk: 8, run_ahead: Some(4), ..SessionOptions::default() }
}

/// What a session holds of its tokens, and its last logits.
fn left(session: &Session) -> Vec<u32> {
    let tokens = session.history().len();
    let held = session.cache().held(tokens, tokens, true);
    let read = |view: &View| session.model().gpu().blocking_read::<u32>(view).expect("a view");
    held.iter().chain([session.logits_buffer()]).flat_map(read).collect()
}

fn saved(session: &mut Session) -> Vec<u8> {
    let conversation = halogen::session::Conversation { sampling: Sampling::greedy(), app: serde_json::Value::Null };
    let mut file = Vec::new();
    session.blocking_save(&mut file, &conversation).expect("memory");
    file
}

/// As [`answer`], once a frame within a budget that holds one slice of a step.
fn advanced(session: &mut Session, prompt: &[u32], limit: usize) -> Vec<u32> {
    session.ask(prompt, &Sampling::greedy(), &[], limit).expect("an answer");
    let mut said = Vec::new();
    while session.is_answering() {
        said.extend(session.advance(Budget::gpu_time(Duration::ZERO)).expect("a device").iter().map(|t| t.id));
    }
    said
}

#[test]
fn a_cache_that_grows_has_the_bits_of_one_that_was_whole() {
    let names = ["llama", "qwen3moe", "step35", "gemma4", "deepseek2", "glm-dsa", "deepseek4", "qwen3next"];
    for name in names {
        let model = Made::new(name, Format::F16, &SIZES).load().expect("a model");
        for kv in [KvFormat::F32, KvFormat::F16, KvFormat::Q8_0] {
            let Ok(mut whole) = Session::new(&model, &options(kv, CONTEXT)) else {
                assert!(kv == KvFormat::Q8_0 && ["deepseek2", "glm-dsa", "deepseek4"].contains(&name), "{name} {kv:?}");
                continue;
            };
            let mut grows = session(&model, options(kv, 5));
            let (first, last) = (grows.cache().total_bytes(), whole.cache().total_bytes());
            assert!(first < last, "{name}: {first} of {last} bytes");
            let mut prompt = some_tokens(23);
            for (turn, limit) in [40, 9, 90, 1].into_iter().enumerate() {
                let expected = answer(&mut whole, &prompt, &Sampling::greedy(), limit);
                let found = match turn % 2 {
                    0 => answer(&mut grows, &prompt, &Sampling::greedy(), limit),
                    _ => advanced(&mut grows, &prompt, limit),
                };
                assert_eq!(expected, found, "{name} {kv:?}, turn {turn}");
                assert!(left(&whole) == left(&grows), "{name} {kv:?}, turn {turn}");
                prompt = [&prompt[..], &found, &some_tokens(5)].concat();
            }
            answer(&mut grows, &prompt, &Sampling::greedy(), usize::MAX);
            assert_eq!(grows.cache().total_bytes(), last, "{name} {kv:?}");
        }
    }
}

#[test]
fn logits_of_every_token_grow_it_too() {
    let model = Made::new("qwen3", Format::F16, &SIZES).load().expect("a model");
    let tokens = some_tokens(120);
    let logits = |room| {
        let mut session = session(&model, options(KvFormat::Q8_0, room));
        bits(&session.blocking_logits(&tokens, 8).expect("logits"))
    };
    assert!(logits(CONTEXT) == logits(3));
}

#[test]
fn growing_goes_on_from_misses() {
    let gguf = super::store::embedded();
    let model = super::store::limited(&gguf, expert_bytes(&gguf) / 4);
    let options = |room| SessionOptions { room, chunk: 4, ..SessionOptions::default() };
    let expected = answer(&mut session(&demo(), options(1024)), &prompt(), &Sampling::greedy(), 60);
    assert_eq!(answer(&mut session(&model, options(8)), &prompt(), &Sampling::greedy(), 60), expected);
    assert_eq!(advanced(&mut session(&model, options(8)), &prompt(), 60), expected);
}

/// On a device of its own: others compile.
#[test]
fn growing_compiles_nothing_and_records_the_same() {
    let gpu = own_gpu();
    let model = load(&gpu, &super::store::embedded()).expect("a model");
    let mut grows = session(&model, SessionOptions { room: 8, ..SessionOptions::default() });
    let (compiled, recorded) = (gpu.kernels_compiled(), grows.decode_recording().to_string());
    let said = advanced(&mut grows, &prompt(), 60);
    assert!(grows.cache().room() >= prompt().len() + said.len() - 1);
    assert_eq!(grows.decode_recording().to_string(), recorded);
    assert_eq!(gpu.kernels_compiled(), compiled);
}

#[test]
fn a_plan_holds_the_grown_cache_and_what_growing_takes() {
    let model = Made::new("llama", Format::F16, &SIZES).load().expect("a model");
    let kv = |room| Session::needs(model.shape(), &options(KvFormat::F16, room)).kv;
    let mut grows = session(&model, options(KvFormat::F16, 32));
    answer(&mut grows, &some_tokens(200), &Sampling::greedy(), 1);
    let whole = grows.cache().total_bytes();
    assert_eq!(kv(CONTEXT), whole);
    // Half of one of two layers.
    assert_eq!(kv(32), whole + whole / 4);
}

#[test]
fn a_saved_conversation_goes_on_in_any_room() {
    let model = Made::new("qwen3moe", Format::F16, &SIZES).load().expect("a model");
    for (from, to) in [(7, CONTEXT), (CONTEXT, 7)] {
        let mut kept = session(&model, options(KvFormat::Q8_0, from));
        let said = answer(&mut kept, &some_tokens(60), &Sampling::greedy(), 20);
        let file = saved(&mut kept);
        let mut resumed = session(&model, options(KvFormat::Q8_0, to));
        resumed.blocking_resume("talk", file.len() as u64, &mut &file[..]).expect("a conversation");
        let prompt = [some_tokens(60), said].concat();
        let expected = answer(&mut kept, &prompt, &Sampling::greedy(), 30);
        assert_eq!(answer(&mut resumed, &prompt, &Sampling::greedy(), 30), expected);
        assert!(left(&kept) == left(&resumed));
    }
}

/// On devices that bind as many storage buffers as WebGPU promises, and more: two and four shards.
#[test]
fn a_cache_in_shards_has_the_bits_of_one_that_is_whole() {
    let names = ["llama", "qwen3moe", "step35", "gemma4", "deepseek2", "glm-dsa", "deepseek4", "qwen3next"];
    for (i, name) in names.into_iter().enumerate() {
        let gguf = Made::new(name, Format::F16, &SIZES).gguf();
        let model = load(gpu(), &gguf).expect("a model");
        for kv in [KvFormat::F32, KvFormat::F16, KvFormat::Q8_0] {
            let Ok(mut whole) = Session::new(&model, &options(kv, 5)) else { continue };
            let (shards, buffers) = if name == "deepseek4" || i % 2 == 0 { (2, 8) } else { (4, 12) };
            let views = |session: &Session| {
                session.cache().layers.iter().flat_map(|l| l.views()).map(|v| v.size).collect::<Vec<_>>()
            };
            let largest = views(&session(&model, options(kv, CONTEXT))).into_iter().max().expect("layers");
            let few = own_gpu().with_cache_limits(largest / shards + 256, buffers).expect("a device of our own");
            let cut_model = load(&few, &gguf).expect("a model");
            let mut cut = session(&cut_model, options(kv, 5));
            let steps = |s: &Session| s.decode_recording().dispatches.len();
            assert!(steps(&cut) >= steps(&whole), "{name} {kv:?}");
            let mut prompt = some_tokens(23);
            let mut file = (Vec::new(), Vec::new());
            // On and on, then from the middle of what was said.
            for (turn, limit) in [40, 9, 90, 20].into_iter().enumerate() {
                if turn == 3 {
                    prompt = [&prompt[..70], &some_tokens(9)].concat();
                }
                let expected = answer(&mut whole, &prompt, &Sampling::greedy(), limit);
                assert_eq!(
                    answer(&mut cut, &prompt, &Sampling::greedy(), limit),
                    expected,
                    "{name} {kv:?}, turn {turn}"
                );
                assert!(left(&whole) == left(&cut), "{name} {kv:?}, turn {turn}");
                prompt = [&prompt[..], &expected, &some_tokens(5)].concat();
                file = (saved(&mut whole), saved(&mut cut));
                assert!(file.0 == file.1, "{name} {kv:?}, turn {turn}: files differ");
            }
            assert!(views(&cut).len() > views(&whole).len(), "{name} {kv:?}: no layer is in shards");
            // Each goes on from the other's file.
            let (mut whole, mut other) = (session(&cut_model, options(kv, 5)), session(&model, options(kv, 5)));
            for (session, file) in [(&mut whole, &file.0), (&mut other, &file.1)] {
                session.blocking_resume("talk", file.len() as u64, &mut &file[..]).expect("a conversation");
            }
            let expected = answer(&mut cut, &prompt, &Sampling::greedy(), 30);
            for session in [&mut whole, &mut other] {
                assert_eq!(answer(session, &prompt, &Sampling::greedy(), 30), expected, "{name} {kv:?}");
                assert!(left(session) == left(&cut), "{name} {kv:?}");
            }
        }
    }
}

#[test]
fn a_cache_of_more_shards_than_a_kernel_binds_is_refused() {
    let gguf = Made::new("llama", Format::F16, &SIZES).gguf();
    let few = own_gpu().with_cache_limits(4096, 9).expect("a device of our own");
    let model = load(&few, &gguf).expect("a model");
    let error = Session::new(&model, &options(KvFormat::F32, 5)).err().expect("too long").to_string();
    assert!(error.contains("K cache") && error.contains("2 shards of 4096 bytes") && error.contains("-c"), "{error}");
}

/// Memory is let go of later than it is asked for: no frame is held up for it, and who may wait does.
#[test]
fn a_cache_without_memory_to_grow_goes_on_once_there_is_some() {
    let model = Made::new("llama", Format::F16, &SIZES).load().expect("a model");
    let prompt = some_tokens(7);
    let expected = answer(&mut session(&model, options(KvFormat::F16, CONTEXT)), &prompt, &Sampling::greedy(), 60);
    let starved = |times| {
        let mut session = session(&model, options(KvFormat::F16, 8));
        session.starve(0, times);
        session
    };
    assert_eq!(advanced(&mut starved(1), &prompt, 60), expected);
    assert_eq!(answer(&mut starved(1), &prompt, &Sampling::greedy(), 60), expected);

    // As a stream, which must not take a pause for the end.
    let mut streamed = starved(1);
    let stream = streamed.generate(&prompt, &Sampling::greedy(), &[], 60).expect("a generation");
    let said: Vec<_> = pollster::block_on(futures::StreamExt::collect(stream));
    assert_eq!(said.into_iter().map(|token| token.expect("a device").id).collect::<Vec<_>>(), expected);

    // Memory that never comes is an error, and the session can be asked again.
    let mut fails = starved(u32::MAX);
    fails.ask(&prompt, &Sampling::greedy(), &[], 60).expect("an answer");
    let error = loop {
        match fails.advance(Budget::unlimited()) {
            Ok(_) => assert!(fails.is_answering(), "it found memory"),
            Err(error) => break error.to_string(),
        }
    };
    assert!(error.contains("starved"), "{error}");
    fails.starve(0, 0);
    assert_eq!(answer(&mut fails, &prompt, &Sampling::greedy(), 60), expected);
}
