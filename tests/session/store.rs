//! Experts that come and go: whatever the budget, the same bits.

use super::*;
use halogen::Gguf;
use halogen::formats::Format;
use halogen::memory::{ExpertMemory, expert_bytes};
use halogen::session::{LoadOptions, Sampling};

fn limited(gguf: &Gguf, bytes: u64) -> Arc<Model> {
    let expert_memory = ExpertMemory::within(gguf, bytes).expect("enough");
    pollster::block_on(Model::load_with(gpu(), gguf, &LoadOptions { expert_memory }, |_| true)).expect("a model")
}

fn embedded() -> Gguf {
    Gguf::from_static("demo", include_bytes!("../../assets/rust-docs-moe-q4_k_m.gguf")).expect("the embedded model")
}

#[test]
fn logits_do_not_depend_on_the_budget() {
    let gguf = embedded();
    let all = expert_bytes(&gguf);
    assert!(all > 1 << 20);
    let tokens: Vec<u32> = prompt().into_iter().cycle().take(48).collect();
    let mut resident = session(&demo(), f32_cache());
    for (share, slots) in [(100, 8), (50, 4), (37, 2), (25, 2)] {
        let model = limited(&gguf, all * share / 100);
        assert_eq!(model.experts_move(), slots < 8);
        let mut moving = session(&model, f32_cache());
        for chunk in [512, 7, 1] {
            let expected = resident.blocking_logits(&tokens, chunk).expect("logits");
            let found = moving.blocking_logits(&tokens, chunk).expect("logits");
            assert!(bits(&found) == bits(&expected), "{share} %, chunk {chunk}");
        }
        let misses = model.store_stats().map_or(0, |stats| stats.misses);
        assert_eq!(misses > 0, slots < 8, "{share} %: {misses} misses");
    }
}

#[test]
fn answers_do_not_depend_on_the_budget() {
    let gguf = embedded();
    let all = expert_bytes(&gguf);
    let expected = answer(&mut session(&demo(), SessionOptions::default()), &prompt(), &Sampling::greedy(), 40);
    let seeded = Sampling { seed: 7, ..Sampling::default() };
    let drawn = answer(&mut session(&demo(), SessionOptions::default()), &prompt(), &seeded, 40);
    for share in [75, 50, 25] {
        let model = limited(&gguf, all * share / 100);
        for run_ahead in [None, Some(0), Some(8)] {
            let options = SessionOptions { run_ahead, chunk: 4, ..SessionOptions::default() };
            let mut moving = session(&model, options);
            assert_eq!(answer(&mut moving, &prompt(), &Sampling::greedy(), 40), expected, "{share} %, {run_ahead:?}");
            moving.clear();
            assert_eq!(answer(&mut moving, &prompt(), &seeded, 40), drawn, "{share} %, {run_ahead:?}");
        }
    }
}

#[test]
fn sessions_share_the_slots() {
    let gguf = embedded();
    let model = limited(&gguf, expert_bytes(&gguf) / 4);
    let prompts = [prompt(), model.tokenizer().encode("A trait object is", Special::Text)];
    let alone = prompts
        .each_ref()
        .map(|p| answer(&mut session(&demo(), SessionOptions::default()), p, &Sampling::greedy(), 16));
    let mut sessions =
        [0, 1].map(|_| session(&model, SessionOptions { run_ahead: Some(4), ..SessionOptions::default() }));
    let mut generations: Vec<_> = sessions
        .iter_mut()
        .zip(&prompts)
        .map(|(s, p)| s.generate(p, &Sampling::greedy(), &[], 16).expect("a generation"))
        .collect();
    let mut said = [Vec::new(), Vec::new()];
    for _ in 0..16 {
        for (ids, generation) in said.iter_mut().zip(&mut generations) {
            ids.push(generation.blocking_next().expect("a device").expect("a token").id);
        }
    }
    assert_eq!(said, alone);
}

#[test]
fn a_budget_below_one_token_is_refused() {
    let gguf = Made::new("qwen3moe", Format::F16, &TINY).gguf();
    let error = ExpertMemory::within(&gguf, 1).expect_err("too little").to_string();
    assert!(error.contains("1 bytes for experts") && error.contains("at least"), "{error}");
}

#[test]
fn a_file_that_shrinks_is_an_error_and_the_model_goes_on() {
    let bytes = include_bytes!("../../assets/rust-docs-moe-q4_k_m.gguf");
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("shrinks.gguf");
    std::fs::write(&path, bytes).expect("a file");
    let gguf = Gguf::open(&path).expect("the embedded model");
    let model = limited(&gguf, expert_bytes(&gguf) / 4);
    let mut first = session(&model, SessionOptions::default());

    let file = std::fs::OpenOptions::new().write(true).open(&path).expect("the file");
    file.set_len(1 << 20).expect("a shorter file");
    let mut generation = first.generate(&prompt(), &Sampling::greedy(), &[], 8).expect("a generation");
    let error = loop {
        match generation.blocking_next() {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the answer ended without the experts"),
            Err(error) => break error.to_string(),
        }
    };
    assert!(error.contains("shrinks.gguf") && error.contains("_exps.weight"), "{error}");
    assert!(matches!(generation.blocking_next(), Ok(None)), "nothing follows an error");
    drop(generation);

    std::fs::write(&path, bytes).expect("the file again");
    let expected = answer(&mut session(&demo(), SessionOptions::default()), &prompt(), &Sampling::greedy(), 8);
    assert_eq!(answer(&mut first, &prompt(), &Sampling::greedy(), 8), expected, "the same session");
    let mut second = session(&model, SessionOptions::default());
    assert_eq!(answer(&mut second, &prompt(), &Sampling::greedy(), 8), expected, "another session");
}

#[test]
fn a_miss_at_every_layer_of_every_token_changes_nothing() {
    let gguf = embedded();
    let expected = answer(&mut session(&demo(), SessionOptions::default()), &prompt(), &Sampling::greedy(), 12);
    let model = limited(&gguf, expert_bytes(&gguf) / 2);
    let mut emptied = session(&model, SessionOptions { run_ahead: Some(0), ..SessionOptions::default() });
    let mut generation = emptied.generate(&prompt(), &Sampling::greedy(), &[], 12).expect("a generation");
    let misses = || model.store_stats().expect("a store").misses;
    for (i, id) in expected.into_iter().enumerate() {
        model.evict_experts().expect("a device");
        let before = misses();
        assert_eq!(generation.blocking_next().expect("a device").map(|t| t.id), Some(id));
        // Two experts of each of the six layers.
        assert!(i == 0 || misses() - before == 12, "token {i}: {} misses", misses() - before);
    }
}
