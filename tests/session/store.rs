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
