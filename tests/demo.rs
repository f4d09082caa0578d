//! The embedded model says what another implementation says, on every tier.

use halogen::gguf::Gguf;
use halogen::gpu::{Gpu, Selector, Tier};
use halogen::memory::KvFormat;
use halogen::ops::Arithmetic;
use halogen::session::{Model, Sampling, Session, SessionOptions, StopReason};
use halogen::tokenizer::{Chat, Special};
use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::Value;
use std::sync::Arc;

static MODEL: &[u8] = include_bytes!("../assets/rust-docs-moe-q4_k_m.gguf");
/// From this lead on, in logits, rounding does not decide the next token.
const CLEAR_LEAD: f32 = 0.05;

fn main() {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let gpu = pollster::block_on(Gpu::new(Selector::Best)).expect("an adapter");
    let gguf = Gguf::from_static("demo", MODEL).expect("the embedded model");
    let model = pollster::block_on(Model::load(&gpu, &gguf, |_| true)).expect("the embedded model loads");
    let expected: Value = serde_json::from_str(include_str!("demo-expected.json")).expect("JSON");
    let expected = Arc::new(expected);
    let mut trials = Vec::new();
    let mut kernels = Vec::new();
    for tier in Tier::ALL {
        let mut reason = gpu.require(tier).err().map(|e| e.to_string());
        if reason.is_none() {
            // A tier without variants of its own is the one below it.
            let mut session = Session::new(&model, &options(tier)).expect("a session");
            let text =
                session.decode_recording().to_string() + &session.step_recording(16).expect("a step").to_string();
            reason = kernels.contains(&text).then(|| format!("the kernels of {tier} are those of the tier below"));
            kernels.push(text);
        }
        let mut add = |name: &str, run: fn(&Arc<Model>, &Value, Tier) -> Result<(), Failed>| {
            let (model, expected) = (model.clone(), expected.clone());
            let trial = Trial::test(format!("{name}/{tier}"), move || run(&model, &expected, tier));
            trials.push(match &reason {
                Some(reason) => trial.with_kind(reason.clone()).with_ignored_flag(true),
                None => trial,
            });
        };
        add("chat", chat);
        if tier.is_f32() {
            add("complete", complete);
        }
    }
    libtest_mimic::run(&arguments, trials).exit();
}

/// On tiers of narrower arithmetic every product that has it takes it, whatever is faster here.
fn options(tier: Tier) -> SessionOptions {
    let force = Arithmetic::ALL.into_iter().find(|a| a.tier() == tier && *a != Arithmetic::F32);
    SessionOptions { tier: Some(tier), force, ..SessionOptions::default() }
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().into_iter().flatten().map(|id| id.as_u64().expect("an id") as u32).collect()
}

/// Every chat prompt, greedily: prompt ids, answer ids, answer text.
fn chat(model: &Arc<Model>, expected: &Value, tier: Tier) -> Result<(), Failed> {
    let mut session = Session::new(model, &options(tier))?;
    let (tokenizer, template) = (model.tokenizer(), model.template().ok_or("no template")?);
    for case in expected["chat"].as_array().ok_or("no cases")? {
        let text = case["prompt"].as_str().ok_or("no prompt")?;
        let prompt = tokenizer.encode_chat(template, &chat_of(text), Special::Text)?.ids;
        assert_eq!(prompt, ids(&case["prompt_ids"]), "{text}");
        let mut generation = session.generate(&prompt, &Sampling::greedy(), tokenizer.end_tokens(), 200)?;
        let mut answer = Vec::new();
        let mut stop = None;
        while let Some(token) = generation.blocking_next()? {
            answer.push(token.id);
            stop = token.stop;
        }
        assert_eq!(stop, Some(StopReason::EndToken), "{text}");
        answer.pop();
        assert_eq!(answer, ids(&case["ids"]), "{text}");
        let said = tokenizer.decode_lossy(&answer, halogen::tokenizer::Control::Skip);
        assert_eq!(said, case["answer"].as_str().ok_or("no answer")?, "{text}");
    }
    Ok(())
}

fn chat_of(text: &str) -> Chat {
    Chat {
        messages: vec![serde_json::json!({"role": "user", "content": text})],
        add_generation_prompt: true,
        ..Chat::default()
    }
}

/// Completions with leads down to 0.0001: at every step the expected token is the best, or as good within rounding, given
/// the expected tokens before it; and the generated text agrees up to the first step without a clear lead.
fn complete(model: &Arc<Model>, expected: &Value, tier: Tier) -> Result<(), Failed> {
    let options = SessionOptions { tier: Some(tier), kv: KvFormat::F32, ..SessionOptions::default() };
    let mut session = Session::new(model, &options)?;
    let vocabulary = model.shape().vocabulary;
    for case in expected["complete"].as_array().ok_or("no cases")? {
        let (prompt, answer) = (ids(&case["prompt_ids"]), ids(&case["ids"]));
        let text = case["prompt"].as_str().ok_or("no prompt")?;
        assert_eq!(model.tokenizer().encode(text, Special::Text), prompt, "{text}");
        let all: Vec<u32> = prompt.iter().chain(&answer).copied().collect();
        let logits = session.blocking_logits(&all, 512)?;
        let mut clear = answer.len();
        for (i, id) in answer.iter().enumerate() {
            let row = &logits[(prompt.len() + i - 1) * vocabulary..][..vocabulary];
            let of_expected = row[*id as usize];
            let others = row.iter().enumerate().filter(|(t, _)| *t != *id as usize);
            let lead = of_expected - others.map(|(_, l)| *l).fold(f32::MIN, f32::max);
            assert!(lead > -1e-3, "{text}: step {i} prefers another token than {id} by {}", -lead);
            if lead < CLEAR_LEAD {
                clear = clear.min(i);
            }
        }
        session.clear();
        let mut generation = session.generate(&prompt, &Sampling::greedy(), &[], answer.len())?;
        let mut said = Vec::new();
        while let Some(token) = generation.blocking_next()? {
            said.push(token.id);
        }
        assert_eq!(said[..clear], answer[..clear], "{text}: up to the first step without a clear lead");
    }
    Ok(())
}
