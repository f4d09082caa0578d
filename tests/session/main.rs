//! Sessions: what halts them, what they keep, and that no way of cutting the work changes its result.

mod agreement;
mod budgets;
#[path = "../common/mod.rs"]
mod common;
mod counts;
mod device;
mod growth;
mod halting;
mod import;
mod mixed;
mod passing;
mod rounded;
mod saved;
mod several;
mod store;
mod synthetic;
mod waiting;

use common::*;
use halogen::memory::KvFormat;
use halogen::session::{Model, Session, SessionOptions};
use halogen::tokenizer::Special;
use std::sync::Arc;

/// A prompt for the embedded model.
fn prompt() -> Vec<u32> {
    demo().tokenizer().encode("The borrow checker says that a value was", Special::Text)
}

fn session(model: &Arc<Model>, options: SessionOptions) -> Session {
    Session::new(model, &options).expect("a session")
}

fn f32_cache() -> SessionOptions {
    SessionOptions { kv: KvFormat::F32, ..SessionOptions::default() }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}
