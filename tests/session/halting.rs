//! Whatever the host queued behind the end of an answer leaves no trace.

use super::*;
use halogen::formats::Format;
use halogen::session::{Sampling, StopReason, Token};

/// All that a session keeps on the device.
#[derive(PartialEq)]
struct Kept {
    /// Keys and values of each layer, as words.
    cache: Vec<Vec<u32>>,
    halt: u32,
    position: u32,
    generated: u32,
    tokens: Vec<u32>,
    history: Vec<u32>,
}

fn kept(session: &Session) -> Kept {
    let read = |view| session.model().gpu().blocking_read::<u32>(view).expect("the buffer");
    let (state, tokens) = session.state_and_tokens();
    let state = read(state);
    Kept {
        cache: session.cache().layers.iter().flat_map(|l| l.views()).map(read).collect(),
        halt: state[0],
        position: state[2],
        generated: state[4],
        tokens: read(tokens),
        history: session.history().to_vec(),
    }
}

/// Runs one answer in a new session; the tokens, and what is left behind.
fn run(run_ahead: usize, context: usize, kv: KvFormat, stops: &[u32], limit: usize) -> (Vec<Token>, Kept) {
    let options =
        SessionOptions { context: Some(context), run_ahead: Some(run_ahead), kv, ..SessionOptions::default() };
    let mut session = session(&demo(), options);
    let mut generation = session.generate(&prompt(), &Sampling::greedy(), stops, limit).expect("a generation");
    let tokens = collect(&mut generation);
    assert_eq!(generation.stats().generated_tokens, tokens.len());
    drop(generation);
    let kept = kept(&session);
    (tokens, kept)
}

fn check(context: usize, stops: &[u32], limit: usize, expected: StopReason, count: usize) {
    for kv in [KvFormat::F16, KvFormat::F32] {
        let (tokens, plain) = run(0, context, kv, stops, limit);
        assert_eq!(tokens.last().and_then(|t| t.stop), Some(expected));
        assert_eq!(tokens.len(), count);
        let (ahead, kept) = run(8, context, kv, stops, limit);
        assert_eq!(tokens, ahead);
        assert!(plain == kept, "run-ahead 8 leaves another cache or state than run-ahead 0");

        let cached = prompt().len() + count - 1;
        assert_eq!((kept.position as usize, kept.generated as usize), (cached, count));
        assert_ne!(kept.halt, 0);
        let said: Vec<u32> = tokens.iter().map(|t| t.id).collect();
        assert_eq!(kept.tokens[..=cached], [prompt(), said].concat());
        assert!(kept.tokens[cached + 1..].iter().all(|id| *id == 0), "ids behind the end");
        assert_eq!(kept.history, kept.tokens[..cached]);
        for half in &kept.cache {
            let (used, rest) = half.split_at(half.len() / context * cached);
            assert!(used.iter().any(|w| *w != 0), "nothing is cached");
            assert!(rest.iter().all(|w| *w == 0), "keys or values behind the end");
        }
    }
}

fn greedy_ids(count: usize) -> Vec<u32> {
    let mut session = session(&demo(), SessionOptions { context: Some(64), ..SessionOptions::default() });
    answer(&mut session, &prompt(), &Sampling::greedy(), count)
}

#[test]
fn a_stop_at_the_first_token_leaves_what_no_run_ahead_leaves() {
    let ids = greedy_ids(1);
    check(64, &ids, 40, StopReason::EndToken, 1);
}

#[test]
fn a_stop_at_a_later_token_leaves_what_no_run_ahead_leaves() {
    let ids = greedy_ids(4);
    let first = ids.iter().position(|id| *id == ids[3]).expect("it is there");
    check(64, &[1, ids[3]], 40, StopReason::EndToken, first + 1);
}

#[test]
fn the_limit_leaves_what_no_run_ahead_leaves() {
    check(64, &[], 3, StopReason::Limit, 3);
}

#[test]
fn a_full_context_leaves_what_no_run_ahead_leaves() {
    // The last token is sampled from the last position, and not cached.
    check(prompt().len() + 2, &[], 40, StopReason::ContextFull, 3);
    check(prompt().len(), &[], 40, StopReason::ContextFull, 1);
}

/// A state has no positions whose rest could be looked at: it must be that of the same steps without others behind them.
#[test]
fn recurrent_states_are_those_at_the_end_of_the_answer() {
    let model = Made::new("qwen3next", Format::F16, &TINY).load().expect("a model");
    let left = |run_ahead, limit| {
        let options = SessionOptions { context: Some(24), run_ahead: Some(run_ahead), ..SessionOptions::default() };
        let mut session = session(&model, options);
        let said = answer(&mut session, &[1, 2, 3, 4, 5], &Sampling::greedy(), limit);
        (said, kept(&session))
    };
    // The limit ends one answer, the context's end the other.
    for limit in [4, 40] {
        let ((plain_ids, plain), (ids, ahead)) = (left(0, limit), left(8, limit));
        assert_eq!(plain_ids, ids);
        assert!(plain == ahead, "run-ahead 8 leaves another state than run-ahead 0");
        assert!(plain.cache.iter().all(|half| half.iter().any(|word| *word != 0)), "a layer kept nothing");
    }
}

#[test]
fn a_limit_of_none_gives_no_token() {
    let mut session = session(&demo(), SessionOptions::default());
    assert!(answer(&mut session, &prompt(), &Sampling::greedy(), 0).is_empty());
    assert_eq!(answer(&mut session, &prompt(), &Sampling::greedy(), 4), greedy_ids(4));
}
