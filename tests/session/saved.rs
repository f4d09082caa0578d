//! Conversations in files: gone on from with the same bits, and refused where they are not what they say.

use super::agreement::some_tokens;
use super::*;
use halogen::Error;
use halogen::formats::Format;
use halogen::session::{Checkpoints, Conversation, Sampling, SavedProblem};
use serde_json::{Value, json};

fn conversation() -> Conversation {
    let sampling = Sampling { seed: 7, repeat_penalty: 1.1, top_k: 20, ..Sampling::default() };
    Conversation { sampling, app: json!({"messages": ["hello"]}) }
}

fn save(session: &mut Session) -> Vec<u8> {
    let mut file = Vec::new();
    session.blocking_save(&mut file, &conversation()).expect("memory");
    file
}

fn resume(session: &mut Session, file: &[u8]) -> halogen::Result<Conversation> {
    session.blocking_resume("talk", file.len() as u64, &mut &file[..])
}

fn problem(result: halogen::Result<Conversation>) -> SavedProblem {
    match result {
        Err(Error::Saved { file, problem }) if file == "talk" => *problem,
        other => panic!("{other:?}"),
    }
}

/// What a turn says, how much of it was cached, and the bits of its last logits.
fn turn(session: &mut Session, prompt: &[u32]) -> (Vec<u32>, usize, Vec<u32>) {
    let mut generation = session.generate(prompt, &conversation().sampling, &[], 9).expect("a generation");
    let said = collect(&mut generation).iter().map(|t| t.id).collect();
    let cached = generation.stats().cached_tokens;
    drop(generation);
    (said, cached, gpu().blocking_read(session.logits_buffer()).expect("logits"))
}

/// Rings come round many times, states are gone back to, and rows are of every kind that layers keep.
#[test]
fn a_resumed_conversation_has_the_bits_of_one_never_saved() {
    let sizes = Sizes { context: 256, head_dim: 32, ..TINY };
    let names =
        ["llama", "qwen3moe", "step35", "gemma4", "llama4", "deepseek2", "glm-dsa", "deepseek4", "qwen3next", "qwen35"];
    let (first, more) = (some_tokens(90), some_tokens(30));
    for name in names {
        let model = Made::new(name, Format::F16, &sizes).load().expect("a model");
        for kv in [KvFormat::F32, KvFormat::F16, KvFormat::Q8_0] {
            let checkpoints = Checkpoints { interval: 20, ..Checkpoints::default() };
            let options = SessionOptions { kv, chunk: 8, run_ahead: Some(2), checkpoints, ..SessionOptions::default() };
            // Latent rows of 24 values and compressed ones are not rounded to blocks.
            let Ok(mut kept) = Session::new(&model, &options) else {
                assert!(kv == KvFormat::Q8_0 && ["deepseek2", "glm-dsa", "deepseek4"].contains(&name), "{name} {kv:?}");
                continue;
            };
            let said = turn(&mut kept, &first).0;
            let file = save(&mut kept);
            let mut resumed = session(&model, options.clone());
            turn(&mut resumed, &more);
            assert_eq!(resume(&mut resumed, &file).expect("a conversation"), conversation());
            assert_eq!(resumed.history(), kept.history());
            assert!(save(&mut resumed) == file, "{name} {kv:?}: saved again it is another file");
            // On with it, then from where a checkpoint was, then from the middle of the first turn.
            let second = [&first[..], &said, &more].concat();
            for prompt in [&second[..], &[&second[..97], &more].concat(), &[&first[..55], &more].concat()] {
                let (expected, found) = (turn(&mut kept, prompt), turn(&mut resumed, prompt));
                assert!(
                    expected == found,
                    "{name} {kv:?}: {} tokens, {} and {} cached",
                    prompt.len(),
                    expected.1,
                    found.1
                );
            }
        }
    }
}

/// A stop leaves steps on the device that nobody waited for.
#[test]
fn a_conversation_is_saved_while_it_is_answered() {
    let sizes = Sizes { context: 256, ..TINY };
    for name in ["qwen3next", "step35"] {
        let model = Made::new(name, Format::F16, &sizes).load().expect("a model");
        let options = SessionOptions { chunk: 8, run_ahead: Some(4), ..SessionOptions::default() };
        let mut kept = session(&model, options.clone());
        let mut generation = kept.generate(&some_tokens(60), &Sampling::greedy(), &[], 50).expect("a generation");
        let said: Vec<u32> =
            (0..10).map(|_| generation.blocking_next().expect("a step").expect("a token").id).collect();
        drop(generation);
        let mut resumed = session(&model, options);
        let file = save(&mut kept);
        resume(&mut resumed, &file).expect("a conversation");
        let prompt = [some_tokens(60), said, some_tokens(5)].concat();
        assert!(turn(&mut kept, &prompt) == turn(&mut resumed, &prompt), "{name}");
    }
}

#[test]
fn an_empty_conversation_is_saved_too() {
    let model = Made::new("qwen3next", Format::F16, &TINY).load().expect("a model");
    let file = save(&mut session(&model, SessionOptions::default()));
    let mut resumed = session(&model, SessionOptions::default());
    turn(&mut resumed, &some_tokens(9));
    resume(&mut resumed, &file).expect("a conversation");
    assert!(resumed.history().is_empty());
}

#[test]
fn what_cannot_go_on_here_says_what_differs() {
    let sizes = Sizes { context: 256, head_dim: 32, ..TINY };
    let made = Made::new("step35", Format::F16, &sizes);
    let model = made.load().expect("a model");
    let options = SessionOptions { chunk: 8, context: Some(128), ..SessionOptions::default() };
    let mut saved = session(&model, options.clone());
    turn(&mut saved, &some_tokens(40));
    let file = save(&mut saved);
    let into = |model: &Arc<Model>, options: SessionOptions| resume(&mut session(model, options), &file);

    into(&model, SessionOptions { context: Some(200), ..options.clone() })
        .expect("a longer context has the same rings");
    // One weight in the middle of a matrix.
    let mut other = made.clone();
    let tensor = &mut other.tensors[0];
    let middle = tensor.bytes.len() / 2;
    tensor.bytes[middle] ^= 1;
    let other = problem(into(&other.load().expect("a model"), options.clone()));
    assert!(matches!(other, SavedProblem::Model { .. }), "{other}");
    for (options, said) in [
        (SessionOptions { kv: KvFormat::Q8_0, ..options.clone() }, "keys and values in f16"),
        (SessionOptions { tier: Some(halogen::Tier::Core), ..options.clone() }, "tier"),
        (SessionOptions { context: Some(30), ..options.clone() }, "48 tokens, the context holds 30"),
        (SessionOptions { chunk: 9, ..options.clone() }, "rings"),
    ] {
        let problem = problem(into(&model, options)).to_string();
        assert!(problem.contains(said), "{problem}");
    }
}

/// As the file says of itself, so that only what it says is wrong.
fn sealed(header: &Value, rest: &[u8]) -> Vec<u8> {
    let json = serde_json::to_vec(header).expect("JSON");
    let start = [&b"HALOTALK\x01\0\0\0"[..], &(json.len() as u32).to_le_bytes()].concat();
    let mut sum = 0xcbf2_9ce4_8422_2325u64;
    for piece in [&start[..], &json] {
        let words = piece.chunks(8).map(|c| (0..c.len()).fold(0, |w, i| w | u64::from(c[i]) << (8 * i)));
        let tail = if piece.len().is_multiple_of(8) { Some(0) } else { None };
        for word in std::iter::once(piece.len() as u64).chain(words).chain(tail) {
            sum = (sum ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(29);
        }
    }
    [start, json, rest.to_vec(), sum.to_le_bytes().to_vec()].concat()
}

#[test]
fn files_that_lie_are_refused_and_the_session_goes_on() {
    let model = Made::new("step35", Format::F16, &Sizes { context: 256, ..TINY }).load().expect("a model");
    let options = SessionOptions { chunk: 8, ..SessionOptions::default() };
    let mut session = session(&model, options);
    let prompt = some_tokens(40);
    let expected = turn(&mut session, &prompt);
    let file = save(&mut session);
    let mut refused = |file: &[u8], what: &str| {
        let problem = problem(resume(&mut session, file)).to_string();
        assert!(problem.len() > 15 && problem.len() < 400, "{what}: {problem}");
        problem
    };
    for length in (0..200).chain((200..file.len()).step_by(97)).chain([file.len() - 1]) {
        refused(&file[..length], &format!("cut to {length}"));
    }
    refused(&[&file[..], &[0]].concat(), "longer by a byte");
    let mut noise = Noise(5);
    for at in (0..400).chain((0..200).map(|_| noise.word() as usize % file.len())).chain([file.len() - 1]) {
        let mut altered = file.clone();
        altered[at] ^= 1 << (at % 8);
        refused(&altered, &format!("altered at {at}"));
    }

    let length = u32::from_le_bytes(file[12..16].try_into().expect("4 bytes")) as usize;
    let header: Value = serde_json::from_slice(&file[16..16 + length]).expect("a header");
    let rest = &file[16 + length..file.len() - 8];
    for (key, value) in [
        ("tokens", json!(u64::MAX)),
        ("tokens", json!(-1)),
        ("tokens", json!(1)),
        ("reached", json!(3)),
        ("reached", json!(1u64 << 60)),
        ("context", json!(u64::MAX)),
        ("beyond", json!(u64::MAX)),
        ("beyond", json!(1)),
        ("checkpoints", json!([40, 20])),
        ("checkpoints", json!([1, 2, 3, 1_000_000_000])),
        ("checkpoints", json!([1])),
        ("settled", json!("yes")),
        ("tier", json!("x".repeat(100_000))),
        ("kv", json!(null)),
        ("model", json!([])),
        ("conversation", json!({"sampling": null, "app": null})),
    ] {
        let mut header = header.clone();
        header[key] = value.clone();
        refused(&sealed(&header, rest), &format!("{key} = {}", value.to_string().chars().take(40).collect::<String>()));
    }
    let mut hot = header.clone();
    hot["conversation"]["sampling"]["temperature"] = json!(-1.0);
    assert!(refused(&sealed(&hot, rest), "temperature").contains("temperature"));
    let mut wrong = rest.to_vec();
    wrong[..4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(refused(&sealed(&header, &wrong), "a token").contains("vocabulary"));

    session.clear();
    assert!(turn(&mut session, &prompt) == expected);
}
