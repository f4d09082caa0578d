//! The same work, however it is cut, queued, read or shared, gives the same result.

use super::*;
use futures::StreamExt;
use halogen::formats::Format;
use halogen::session::{Checkpoints, Sampling};
use std::time::Duration;

fn made(architecture: &str) -> Arc<Model> {
    Made::new(architecture, Format::F16, &TINY).load().expect("a model")
}

/// Ids below TINY's vocabulary.
pub(super) fn some_tokens(count: usize) -> Vec<u32> {
    let mut noise = Noise(42);
    (0..count).map(|_| (noise.word() % TINY.vocabulary as u64) as u32).collect()
}

#[test]
fn prefill_in_one_chunk_in_sevens_and_by_token_agree() {
    let mut models: Vec<(String, Arc<Model>, Vec<u32>)> = vec![("demo".into(), demo(), prompt().repeat(3))];
    for name in
        ["llama", "llama4", "step35", "gemma4", "qwen2", "qwen3", "qwen3moe", "deepseek4"].into_iter().chain(HYBRIDS)
    {
        models.push((name.into(), made(name), some_tokens(40)));
    }
    for (name, model, tokens) in models {
        let mut session = session(&model, f32_cache());
        let whole = session.blocking_logits(&tokens, 512).expect("logits");
        for chunk in [7, 1] {
            let parts = session.blocking_logits(&tokens, chunk).expect("logits");
            let error = worst_nmse(&whole, &parts, tokens.len());
            assert!(error <= 1e-6, "{name}, chunk {chunk}: NMSE {error:.3e}");
        }
    }
}

#[test]
fn the_smallest_submits_give_the_same_bits() {
    let made = ["llama", "qwen3moe", "qwen3next"].map(|name| (made(name), some_tokens(40)));
    for (model, tokens) in std::iter::once((demo(), prompt())).chain(made) {
        let mut whole = session(&model, f32_cache());
        let mut cut = session(&model, SessionOptions { submit: Some(Duration::from_micros(1)), ..f32_cache() });
        for chunk in [512, 1] {
            let expected = whole.blocking_logits(&tokens, chunk).expect("logits");
            let found = cut.blocking_logits(&tokens, chunk).expect("logits");
            assert!(bits(&expected) == bits(&found), "chunk {chunk}");
        }
        whole.clear();
        cut.clear();
        let said = answer(&mut whole, &tokens, &Sampling::greedy(), 8);
        let mut generation = cut.generate(&tokens, &Sampling::greedy(), &[], 8).expect("a generation");
        let found: Vec<u32> = collect(&mut generation).iter().map(|t| t.id).collect();
        assert_eq!(said, found);
        let stats = generation.stats();
        // A dispatch a submit, or less: any layer was entered on its own.
        assert!(stats.decode_submits >= stats.decode_steps * stats.dispatches_per_token);
    }
}

#[test]
fn prompts_of_more_lengths_than_recordings_are_kept_answer_the_same() {
    let model = made("llama");
    let mut session = session(&model, SessionOptions::default());
    let tokens = some_tokens(24);
    let mut answers = || -> Vec<Vec<u32>> {
        let prompts = (1..=tokens.len()).map(|length| &tokens[..length]);
        prompts
            .map(|prompt| {
                session.clear();
                answer(&mut session, prompt, &Sampling::greedy(), 2)
            })
            .collect()
    };
    assert_eq!(answers(), answers());
}

#[test]
fn a_second_turn_reuses_the_common_prefix() {
    let model = demo();
    let mut kept = session(&model, SessionOptions::default());
    let first = answer(&mut kept, &prompt(), &Sampling::greedy(), 8);
    let more = model.tokenizer().encode(" and then it was moved.", Special::Text);
    let second = [prompt(), first.clone(), more].concat();
    let mut generation = kept.generate(&second, &Sampling::greedy(), &[], 8).expect("a generation");
    let said: Vec<u32> = collect(&mut generation).iter().map(|t| t.id).collect();
    // The token sampled last was not processed.
    assert_eq!(generation.stats().cached_tokens, prompt().len() + first.len() - 1);
    drop(generation);
    let mut fresh = session(&model, SessionOptions::default());
    assert_eq!(answer(&mut fresh, &second, &Sampling::greedy(), 8), said);

    // Another ending of the first turn: the cache is cut back to what is common.
    let other = [&second[..prompt().len() + 2], &prompt()[..3]].concat();
    let mut generation = kept.generate(&other, &Sampling::greedy(), &[], 8).expect("a generation");
    let said: Vec<u32> = collect(&mut generation).iter().map(|t| t.id).collect();
    assert_eq!(generation.stats().cached_tokens, prompt().len() + 2);
    drop(generation);
    fresh.clear();
    assert_eq!(answer(&mut fresh, &other, &Sampling::greedy(), 8), said);

    // The same prompt again: its last token is processed for its logits.
    let mut generation = kept.generate(&other, &Sampling::greedy(), &[], 1).expect("a generation");
    collect(&mut generation);
    assert_eq!(generation.stats().cached_tokens, other.len() - 1);
}

/// Layers with a window keep it and a few more positions, in rows that come round many times here.
#[test]
fn windows_that_came_round_give_the_bits_of_a_whole_cache() {
    let sizes = Sizes { context: 1024, head_dim: 32, ..TINY };
    let tokens = some_tokens(400);
    for name in ["step35", "gemma4", "llama4", "deepseek4"] {
        let model = Made::new(name, Format::F16, &sizes).load().expect("a model");
        let formats = [KvFormat::F32, KvFormat::F16, KvFormat::Q8_0];
        // Compressed keys are not rounded to blocks.
        for kv in formats.into_iter().take(if name == "deepseek4" { 2 } else { 3 }) {
            // A chunk as long as the context leaves no ring.
            let mut whole = session(&model, SessionOptions { kv, chunk: 1024, ..SessionOptions::default() });
            let options = SessionOptions { kv, chunk: 8, run_ahead: Some(2), ..SessionOptions::default() };
            let mut short = session(&model, options.clone());
            assert!(whole.cache().rewind().rings.is_none());
            assert_eq!(short.cache().rewind().rings.expect("rings").shortest, 16 + 8 + 3);
            // Buffers are made in sixteens of bytes.
            let more = short.cache().total_bytes() - Session::needs(model.shape(), &options).kv;
            assert!(more < 16 * 4 * TINY.layers as u64, "{name}: {more} bytes more than the plan says");
            for chunk in [8, 3, 1] {
                let expected = whole.blocking_logits(&tokens, chunk).expect("logits");
                let found = short.blocking_logits(&tokens, chunk).expect("logits");
                assert!(bits(&expected) == bits(&found), "{name}, chunk {chunk}");
            }
            // And on, as answers do, with steps queued ahead.
            for start in [5, 8] {
                whole.clear();
                short.clear();
                let expected = answer(&mut whole, &tokens[..start], &Sampling::greedy(), 200);
                assert_eq!(answer(&mut short, &tokens[..start], &Sampling::greedy(), 200), expected, "{name}");
            }
        }
    }
}

/// Recurrent states cannot be cut back: they go on from their end, or from a checkpoint.
#[test]
fn a_recurrent_state_goes_on_only_from_where_it_was() {
    let model = made("qwen35moe");
    let mut kept = session(&model, SessionOptions { run_ahead: Some(8), ..SessionOptions::default() });
    let mut fresh = session(&model, SessionOptions::default());
    let mut check = |kept: &mut Session, prompt: &[u32], cached: usize| {
        let mut generation = kept.generate(prompt, &Sampling::greedy(), &[], 6).expect("a generation");
        assert_eq!(generation.stats().cached_tokens, cached);
        let said: Vec<u32> = collect(&mut generation).iter().map(|t| t.id).collect();
        drop(generation);
        fresh.clear();
        assert_eq!(answer(&mut fresh, prompt, &Sampling::greedy(), 6), said);
        said
    };
    let first = some_tokens(20);
    let said = check(&mut kept, &first, 0);
    // The token sampled last was not processed; all before it were.
    let second = [first.clone(), said, vec![5, 6, 7]].concat();
    check(&mut kept, &second, first.len() + 5);
    // Another ending, and the same prompt again: from the end of the first turn's prompt.
    check(&mut kept, &second[..second.len() - 4], first.len());
    check(&mut kept, &second[..second.len() - 4], first.len());
    // A shorter one than any checkpoint's.
    check(&mut kept, &first[..10], 0);
    // An answer that nobody waited for ran on.
    let mut generation = kept.generate(&first, &Sampling::greedy(), &[], 40).expect("a generation");
    let token = generation.blocking_next().expect("a token").expect("a token");
    drop(generation);
    check(&mut kept, &[&first[..], &[token.id, 9]].concat(), first.len());
}

/// A template drops the reasoning of earlier turns, and with it the opening of the answer that ended the prompt.
#[test]
fn a_turn_whose_start_changed_goes_on_from_the_last_checkpoint() {
    for name in ["qwen3next", "step35", "gemma4", "llama4", "deepseek4"] {
        go_on_after_changes(&made(name), KvFormat::F32);
    }
    let rounded = Made::new("step35", Format::F16, &Sizes { head_dim: 64, ..TINY }).load().expect("a model");
    go_on_after_changes(&rounded, KvFormat::Q8_0);
}

fn go_on_after_changes(model: &Arc<Model>, kv: KvFormat) {
    let checkpoints = Checkpoints { interval: 16, ..Checkpoints::default() };
    let options = SessionOptions { chunk: 8, checkpoints, kv, ..SessionOptions::default() };
    let states = |session: &Session| -> Vec<Vec<u32>> {
        let read = |view| session.model().gpu().blocking_read::<u32>(view).expect("a state");
        session.cache().states(session.history().len()).iter().map(read).collect()
    };
    let first = some_tokens(70);
    let mut kept = session(model, options.clone());
    let said = answer(&mut kept, &first, &Sampling::greedy(), 30);
    for (same, prompt) in [
        (68, [&first[..68], &said[20..], &[7, 8, 9]].concat()),
        (70 + 28, [&first[..], &said[..28], &[7, 8, 9]].concat()),
        (40, [&first[..40], &[1; 50]].concat()),
    ] {
        let mut kept = session(model, options.clone());
        answer(&mut kept, &first, &Sampling::greedy(), 30);
        let mut generation = kept.generate(&prompt, &Sampling::greedy(), &[], 8).expect("a generation");
        let cached = generation.stats().cached_tokens;
        assert!(cached <= same && same < cached + 16, "{cached} of {same} tokens were cached");
        let said: Vec<u32> = collect(&mut generation).iter().map(|t| t.id).collect();
        drop(generation);
        // The same bits as of a session that was never elsewhere: it comes there in the same steps.
        let mut fresh = session(model, options.clone());
        let steps = cached.saturating_sub(first.len()) + 1;
        answer(&mut fresh, &first[..cached.min(first.len())], &Sampling::greedy(), steps);
        let mut generation = fresh.generate(&prompt, &Sampling::greedy(), &[], 8).expect("a generation");
        assert_eq!(generation.stats().cached_tokens, cached);
        assert_eq!(collect(&mut generation).iter().map(|t| t.id).collect::<Vec<u32>>(), said);
        drop(generation);
        assert!(states(&fresh) == states(&kept), "the states differ after {same} tokens");
    }
    // With no room for a checkpoint, all over.
    let checkpoints = Checkpoints { bytes: 100, ..checkpoints };
    let mut poor = session(model, SessionOptions { checkpoints, ..options });
    assert_eq!(answer(&mut poor, &first, &Sampling::greedy(), 30), said);
    let prompt = [&first[..68], &[7, 8, 9]].concat();
    assert_eq!(poor.generate(&prompt, &Sampling::greedy(), &[], 1).expect("a generation").stats().cached_tokens, 0);
}

#[test]
fn a_seed_reproduces_a_text_whatever_is_queued_ahead() {
    let model = demo();
    let sampling = |seed| Sampling { temperature: 1.2, top_k: 0, top_p: 1.0, min_p: 0.0, seed, ..Sampling::default() };
    let text = |run_ahead, seed| {
        let mut session = session(&model, SessionOptions { run_ahead, ..SessionOptions::default() });
        answer(&mut session, &prompt(), &sampling(seed), 16)
    };
    let first = text(Some(0), 7);
    for run_ahead in [Some(0), Some(8), None] {
        assert_eq!(text(run_ahead, 7), first, "run-ahead {run_ahead:?}");
    }
    let others: Vec<_> = (8..12).map(|seed| text(None, seed)).collect();
    assert!(others.iter().all(|o| *o != first), "a seed changes nothing");
}

#[test]
fn the_best_token_is_what_no_temperature_and_no_choice_pick() {
    let mut session = session(&demo(), SessionOptions::default());
    let greedy = answer(&mut session, &prompt(), &Sampling::greedy(), 16);
    let off = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, ..Sampling::default() };
    for (what, sampling) in [
        ("top-k 1", Sampling { top_k: 1, ..off.clone() }),
        ("min-p 1", Sampling { min_p: 1.0, ..off.clone() }),
        ("top-p tiny", Sampling { top_p: 1e-6, ..off.clone() }),
        ("temperature tiny", Sampling { temperature: 1e-6, ..off.clone() }),
        ("temperature denormal", Sampling { temperature: 1e-40, ..off }),
    ] {
        session.clear();
        assert_eq!(answer(&mut session, &prompt(), &sampling, 16), greedy, "{what}");
    }
}

#[test]
fn a_dropped_generation_leaves_a_session_that_is_right() {
    let model = demo();
    let mut fresh = session(&model, SessionOptions::default());
    let expected = answer(&mut fresh, &prompt(), &Sampling::greedy(), 12);
    let other = model.tokenizer().encode("A trait object is", Special::Text);
    for seen in [0, 1, 3] {
        let mut kept = session(&model, SessionOptions { run_ahead: Some(6), ..SessionOptions::default() });
        let mut generation = kept.generate(&other, &Sampling::greedy(), &[], 40).expect("a generation");
        for _ in 0..seen {
            generation.blocking_next().expect("a token");
        }
        drop(generation);
        assert_eq!(answer(&mut kept, &prompt(), &Sampling::greedy(), 12), expected, "after {seen} tokens");
        // And on from what the dropped one had cached.
        let mut generation = kept.generate(&prompt(), &Sampling::greedy(), &[], 40).expect("a generation");
        for _ in 0..seen {
            generation.blocking_next().expect("a token");
        }
        drop(generation);
        let longer = [prompt(), expected[..5].to_vec()].concat();
        assert_eq!(answer(&mut kept, &longer, &Sampling::greedy(), 7), expected[5..], "after {seen} tokens");
    }
}

#[test]
fn a_stream_gives_the_tokens_that_waiting_gives() {
    let mut session = session(&demo(), SessionOptions::default());
    let expected = answer(&mut session, &prompt(), &Sampling::greedy(), 12);
    session.clear();
    let mut generation = session.generate(&prompt(), &Sampling::greedy(), &[], 12).expect("a generation");
    let streamed = pollster::block_on(async {
        let mut ids = Vec::new();
        while let Some(token) = generation.next().await {
            ids.push(token.expect("a token").id);
        }
        ids
    });
    assert_eq!(streamed, expected);
}

#[test]
fn sessions_of_one_model_do_not_meet() {
    let model = demo();
    let prompts = [prompt(), model.tokenizer().encode("A trait object is", Special::Text)];
    let alone: Vec<Vec<u32>> = prompts
        .iter()
        .map(|p| answer(&mut session(&model, SessionOptions::default()), p, &Sampling::greedy(), 10))
        .collect();
    let mut sessions = [0, 1].map(|_| session(&model, SessionOptions::default()));
    let mut generations: Vec<_> = sessions
        .iter_mut()
        .zip(&prompts)
        .map(|(s, p)| s.generate(p, &Sampling::greedy(), &[], 10).expect("a generation"))
        .collect();
    let mut said = [Vec::new(), Vec::new()];
    for _ in 0..10 {
        for (ids, generation) in said.iter_mut().zip(&mut generations) {
            ids.push(generation.blocking_next().expect("a device").expect("a token").id);
        }
    }
    assert_eq!(said.to_vec(), alone);
}

#[test]
fn the_rope_table_grows_with_the_answer() {
    let sizes = Sizes { context: 2048, ..TINY };
    let model = Made::new("qwen3", Format::F16, &sizes).load().expect("a model");
    let prompt = some_tokens(1015);
    let mut grown = session(&model, SessionOptions::default());
    let said = answer(&mut grown, &prompt, &Sampling::greedy(), 24);
    // All of the table is there before the answer.
    let mut whole = session(&model, SessionOptions::default());
    whole.blocking_logits(&some_tokens(2000), 512).expect("logits");
    whole.clear();
    assert_eq!(answer(&mut whole, &prompt, &Sampling::greedy(), 24), said);
}
