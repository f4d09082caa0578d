//! Requests that no session can answer, and devices that are not there.

use crate::common::*;
use halogen::formats::Format;
use halogen::gpu::{Gpu, Selector, Tier};
use halogen::session::{MAX_STOPS, Sampling, Session, SessionOptions};

fn session(options: SessionOptions) -> Result<Session, String> {
    let model = Made::new("qwen3moe", Format::F16, &TINY).load().expect("a model");
    Session::new(&model, &options).map_err(|e| e.to_string())
}

fn refusal(prompt: &[u32], sampling: &Sampling, stops: &[u32]) -> String {
    let mut session = session(SessionOptions { context: Some(16), ..SessionOptions::default() }).expect("a session");
    let error = session.generate(prompt, sampling, stops, 4).map(drop).expect_err("refused").to_string();
    // The session is none the worse.
    assert_eq!(answer(&mut session, &[1, 2, 3], &Sampling::greedy(), 4).len(), 4);
    error
}

#[track_caller]
fn check(error: &str, words: &[&str]) {
    for word in words {
        assert!(error.contains(word), "`{word}` is not in: {error}");
    }
}

#[test]
fn prompts() {
    let greedy = Sampling::greedy();
    check(&refusal(&[], &greedy, &[]), &["prompt is empty"]);
    check(&refusal(&[1; 17], &greedy, &[]), &["17 tokens", "holds 16"]);
    check(&refusal(&[1, 96], &greedy, &[]), &["token id 96", "96 tokens"]);
    check(&refusal(&[u32::MAX], &greedy, &[]), &["token id 4294967295"]);
    check(&refusal(&[1], &greedy, &[1; MAX_STOPS + 1]), &["33 stop tokens", "at most 32"]);
    let mut session = session(SessionOptions { context: Some(16), ..SessionOptions::default() }).expect("a session");
    check(&session.blocking_logits(&[1; 17], 4).expect_err("too long").to_string(), &["17 tokens", "holds 16"]);
    check(&session.blocking_logits(&[1, 96], 4).expect_err("no token").to_string(), &["token id 96"]);
    assert!(session.blocking_logits(&[], 4).expect("nothing of nothing").is_empty());
    // Stop tokens outside of the vocabulary are never sampled, and a chunk of 0 is one of 1.
    let mut generation = session.generate(&[1], &greedy, &[u32::MAX], 3).expect("a generation");
    assert_eq!(collect(&mut generation).len(), 3);
    drop(generation);
    assert_eq!(session.blocking_logits(&[1, 2], 0).expect("logits").len(), 2 * TINY.vocabulary);
}

#[test]
fn sampling() {
    let with = |change: fn(&mut Sampling)| {
        let mut sampling = Sampling::default();
        change(&mut sampling);
        refusal(&[1], &sampling, &[])
    };
    check(&with(|s| s.temperature = f32::NAN), &["temperature = NaN"]);
    check(&with(|s| s.temperature = -1.0), &["temperature = -1"]);
    check(&with(|s| s.temperature = f32::INFINITY), &["temperature = inf"]);
    check(&with(|s| s.top_p = 0.0), &["top-p = 0"]);
    check(&with(|s| s.top_p = f32::NAN), &["top-p = NaN"]);
    check(&with(|s| s.min_p = 1.5), &["min-p = 1.5"]);
    check(&with(|s| s.repeat_penalty = 0.0), &["repeat-penalty = 0"]);
}

#[test]
fn sessions() {
    let with = |options: SessionOptions| session(options).err().expect("refused");
    let context = |context: usize| with(SessionOptions { context: Some(context), ..SessionOptions::default() });
    check(&context(0), &["context of 0 tokens"]);
    check(&context(1 << 40), &["context of 1099511627776 tokens", "1 to 1073741824"]);
    check(&context(usize::MAX), &["context of 18446744073709551615 tokens"]);
    // Told before anything is allocated: by the memory there is where the system says so, else by the binding limit.
    let error = context(1 << 30);
    assert!(error.contains("does not fit") && error.contains("available") || error.contains("limit of"), "{error}");
    for options in [
        SessionOptions { chunk: 0, ..SessionOptions::default() },
        SessionOptions { chunk: usize::MAX, ..SessionOptions::default() },
        SessionOptions { context: Some(1), ..SessionOptions::default() },
        SessionOptions { run_ahead: Some(usize::MAX), ..SessionOptions::default() },
        SessionOptions { submit: Some(std::time::Duration::MAX), ..SessionOptions::default() },
        SessionOptions { submit: Some(std::time::Duration::ZERO), ..SessionOptions::default() },
    ] {
        let mut session = session(options).expect("a session");
        let said = answer(&mut session, &[1], &Sampling::greedy(), 3);
        assert_eq!(said.len(), session.context().min(3));
    }
}

#[test]
fn devices() {
    for selector in [Selector::Index(99), Selector::from("99"), Selector::from("no such card")] {
        let wanted = selector.to_string();
        let error = pollster::block_on(Gpu::new(selector)).err().expect("no such adapter").to_string();
        check(&error, &["no adapter matches", &wanted, &gpu().info().name]);
    }
    for tier in Tier::ALL {
        let options = SessionOptions { tier: Some(tier), ..SessionOptions::default() };
        match session(options) {
            Ok(_) => assert!(gpu().require(tier).is_ok()),
            Err(error) => check(&error, &[&gpu().info().name, &tier.to_string(), "lacks"]),
        }
    }
}
