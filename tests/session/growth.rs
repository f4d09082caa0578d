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
fn left(session: &Session) -> Vec<Vec<u32>> {
    let tokens = session.history().len();
    let held = session.cache().held(tokens, tokens, true);
    let read = |view: &View| gpu().blocking_read(view).expect("a view");
    held.iter().chain([session.logits_buffer()]).map(read).collect()
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
    let names = ["llama", "qwen3moe", "step35", "gemma4", "deepseek2", "glm-dsa", "qwen3next"];
    for name in names {
        let model = Made::new(name, Format::F16, &SIZES).load().expect("a model");
        for kv in [KvFormat::F32, KvFormat::F16, KvFormat::Q8_0] {
            let Ok(mut whole) = Session::new(&model, &options(kv, CONTEXT)) else {
                assert!(kv == KvFormat::Q8_0 && ["deepseek2", "glm-dsa"].contains(&name), "{name} {kv:?}");
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
        let conversation =
            halogen::session::Conversation { sampling: Sampling::greedy(), app: serde_json::Value::Null };
        let mut saved = session(&model, options(KvFormat::Q8_0, from));
        let said = answer(&mut saved, &some_tokens(60), &Sampling::greedy(), 20);
        let mut file = Vec::new();
        saved.blocking_save(&mut file, &conversation).expect("memory");
        let mut resumed = session(&model, options(KvFormat::Q8_0, to));
        resumed.blocking_resume("talk", file.len() as u64, &mut &file[..]).expect("a conversation");
        let prompt = [some_tokens(60), said].concat();
        let expected = answer(&mut saved, &prompt, &Sampling::greedy(), 30);
        assert_eq!(answer(&mut resumed, &prompt, &Sampling::greedy(), 30), expected);
        assert!(left(&saved) == left(&resumed));
    }
}
