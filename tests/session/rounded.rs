//! A q8_0 cache, end to end.

use super::*;
use halogen::formats::Format;
use halogen::gpu::{Dispatch, Tier, View};
use halogen::session::Sampling;
use std::collections::HashMap;

/// Experts by layer and position, in order.
type Choices = HashMap<(u32, usize), Vec<u32>>;

fn buffer<'d>(router: &'d Dispatch, name: &str) -> &'d View {
    &router.bindings.iter().find(|(n, _)| n == name).expect("a binding of the router").1
}

/// Logits token by token, and the experts that were chosen. Where others are `wanted`, the router chooses again among these.
fn logits(kv: KvFormat, tokens: &[u32], wanted: Option<&Choices>) -> (Vec<f32>, Choices) {
    let options = SessionOptions { kv, tier: Some(Tier::Core), chunk: 1, ..SessionOptions::default() };
    let (mut session, mut found) = (session(&demo(), options), Choices::new());
    let said = session.blocking_logits_watched(tokens, 1, |position, router| {
        let mut chosen = gpu().blocking_read::<u32>(buffer(router, "routed"))?;
        chosen.sort();
        let at = (router.layer, position);
        if let Some(others) = wanted.map(|wanted| &wanted[&at]).filter(|wanted| **wanted != chosen) {
            assert!(!found.contains_key(&at), "the router of layer {} cannot be held to a choice", router.layer);
            let view = buffer(router, "logits");
            let logits = gpu().blocking_read::<f32>(view)?;
            let left = |(e, logit): (usize, &f32)| if others.contains(&(e as u32)) { *logit } else { -3.0e38 };
            gpu().write(view, 0, bytemuck::cast_slice(&logits.iter().enumerate().map(left).collect::<Vec<f32>>()))?;
            found.insert(at, chosen);
            return Ok(true);
        }
        found.insert(at, chosen);
        Ok(false)
    });
    (said.expect("logits"), found)
}

/// Rounding 32 values by the largest, for normal ones 2.4 of their standard deviation, leaves (2.4 / 127)^2 / 12 = 3e-5 of
/// their power in keys and in values each, so 6e-5 in what a layer attends to: 3.6e-4 of six layers, if attention were all
/// that a layer adds. Outliers among the keys' lanes raise it. A near tie of two experts would compare two other functions, so
/// that the choices are those of the f32 cache. An f16 cache is off by 1e-7.
#[test]
fn a_rounded_cache_moves_logits_as_far_as_its_rounding() {
    let tokens = prompt().repeat(4);
    let (exact, choices) = logits(KvFormat::F32, &tokens, None);
    let (rounded, _) = logits(KvFormat::Q8_0, &tokens, Some(&choices));
    let error = worst_nmse(&exact, &rounded, tokens.len());
    assert!((1e-6..=1e-3).contains(&error), "NMSE {error:.3e}");
}

#[test]
fn a_rounded_cache_needs_heads_of_whole_blocks() {
    let options = SessionOptions { kv: KvFormat::Q8_0, ..SessionOptions::default() };
    let model = Made::new("llama", Format::F16, &TINY).load().expect("a model");
    let said = Session::new(&model, &options).err().expect("an error").to_string();
    assert!(said.contains("32") && said.contains("heads have 8") && said.contains("-ctk f16"), "{said}");
}

/// As needed, and read again as written: a second turn says what a session says that computes it all.
#[test]
fn a_rounded_cache_takes_what_the_plan_says_and_is_gone_on_from() {
    let options = SessionOptions { kv: KvFormat::Q8_0, chunk: 1, context: Some(256), ..SessionOptions::default() };
    let (mut kept, mut fresh) = (session(&demo(), options.clone()), session(&demo(), options.clone()));
    let halves = SessionOptions { kv: KvFormat::F16, ..options.clone() };
    let bytes = |options| Session::needs(demo().shape(), options).kv;
    assert_eq!(kept.cache().total_bytes(), bytes(&options));
    assert_eq!(bytes(&options) * 64, bytes(&halves) * 34);
    let said = answer(&mut kept, &prompt(), &Sampling::greedy(), 8);
    let second = [prompt(), said].concat();
    let found = answer(&mut kept, &second, &Sampling::greedy(), 8);
    assert_eq!(answer(&mut fresh, &second, &Sampling::greedy(), 8), found);
}
