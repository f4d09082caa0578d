//! Models of which not even the dense layers fit: whatever the budget, the same bits.

use super::*;
use halogen::Gguf;
use halogen::formats::Format;
use halogen::gguf::{TensorInfo, Writer};
use halogen::memory::{self, Placement};
use halogen::session::{Budget, Sampling};
use std::path::PathBuf;
use std::time::Duration;

const SIZES: Sizes = Sizes { layers: 5, ..TINY };

/// The smallest budget of a file's weights.
fn least(gguf: &Gguf) -> u64 {
    match Placement::within(gguf, 0) {
        Err(memory::Error::BelowLeast { least, .. }) => least,
        other => panic!("{other:?}"),
    }
}

/// Budgets of the weights: shares in percent as far as they will do, and the smallest.
fn placements(gguf: &Gguf) -> Vec<(String, Placement)> {
    let least = least(gguf);
    let shares = [75, 50, 25].map(|share| (format!("{share} %"), gguf.data_bytes() * share / 100));
    let budgets = shares.into_iter().filter(|(_, bytes)| *bytes > least).chain([("the least".into(), least)]);
    budgets.map(|(name, bytes)| (name, Placement::within(gguf, bytes).expect("enough"))).collect()
}

fn check(name: &str, gguf: &Gguf) {
    let tokens = agreement::some_tokens(24);
    let mut resident = session(&load(gpu(), gguf).expect("a model"), f32_cache());
    let expected = [512, 7, 1].map(|chunk| resident.blocking_logits(&tokens, chunk).expect("logits"));
    let said = answer(&mut resident, &tokens, &Sampling::greedy(), 8);
    for (budget, placement) in placements(gguf) {
        let model = store::placed_on(gpu(), gguf, placement);
        assert_eq!(model.layers_stream(), placement.dense.is_some(), "{name}, {budget}");
        let mut placed = session(&model, f32_cache());
        for (expected, chunk) in expected.iter().zip([512, 7, 1]) {
            let found = placed.blocking_logits(&tokens, chunk).expect("logits");
            assert!(bits(&found) == bits(expected), "{name}, {budget}, chunk {chunk}");
        }
        assert_eq!(answer(&mut placed, &tokens, &Sampling::greedy(), 8), said, "{name}, {budget}");
        let stats = model.store_stats().expect("not all is resident");
        assert_eq!(stats.streamed > 0, placement.dense.is_some(), "{name}, {budget}");
        assert_eq!(stats.misses > 0, placement.experts.is_some(), "{name}, {budget}");
    }
}

#[test]
fn logits_do_not_depend_on_what_passes_through() {
    for name in [
        "llama",
        "qwen2",
        "llama4",
        "qwen3moe",
        "glm4moe",
        "deepseek2",
        "deepseek4",
        "glm-dsa",
        "gemma4",
        "step35",
        "qwen35moe",
    ] {
        let gguf = Made::new(name, Format::F16, &SIZES).gguf();
        let placed = placements(&gguf);
        assert!(placed.last().is_some_and(|(_, p)| p.dense.is_some_and(|dense| dense.pieces > 1)), "{name}");
        assert!(placed.iter().any(|(_, p)| p.dense.is_some()), "{name}");
        let experts = placed.iter().filter_map(|(_, p)| p.experts);
        assert!(placed[0].1.experts.is_none() || experts.into_iter().any(|e| e.shared.is_some()), "{name}");
        check(name, &gguf);
    }
}

/// The output matrix and the embedding in several pieces each, of a file with both and of one with the embedding alone.
#[test]
fn the_matrices_that_are_in_no_layer_pass_in_pieces() {
    for tied in [false, true] {
        let sizes = Sizes { layers: 2, vocabulary: 2048, ..TINY };
        let gguf = Made::new("qwen3", Format::F16, &sizes).gguf();
        let gguf = if tied { without(&gguf, "output.weight") } else { gguf };
        let placement = Placement::within(&gguf, least(&gguf)).expect("enough");
        let dense = placement.dense.expect("layers pass through");
        let embedding = gguf.tensor("token_embd.weight").expect("an embedding").bytes;
        assert!(
            dense.pieces > 5 && embedding > 2 * dense.slot,
            "{embedding} bytes of embedding, slots of {}",
            dense.slot
        );
        check(if tied { "tied" } else { "untied" }, &gguf);
    }
}

/// The file without a tensor.
fn without(gguf: &Gguf, name: &str) -> Gguf {
    let mut writer = Writer::new(gguf.metadata()).expect("metadata");
    let others: Vec<&TensorInfo> = gguf.tensors().iter().filter(|t| t.name != name).collect();
    let read = |t: &&TensorInfo| {
        let mut bytes = vec![0; t.bytes as usize];
        gguf.blocking_read(t, 0, &mut bytes).expect("a tensor");
        bytes
    };
    let bytes: Vec<Vec<u8>> = others.iter().map(read).collect();
    for (t, bytes) in others.iter().zip(&bytes) {
        writer.tensor(&t.name, &t.dims, t.ggml_type, bytes).expect("a tensor");
    }
    let mut file = Vec::new();
    writer.write(&mut file).expect("memory");
    Gguf::from_bytes("without", file).expect("a model")
}

/// A file in three parts.
pub fn split(name: &str, gguf: &Gguf) -> Gguf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&folder).expect("a folder");
    let path = |part: usize| folder.join(format!("model-{:05}-of-00003.gguf", part + 1));
    let third = gguf.tensors().len().div_ceil(3);
    for (part, tensors) in gguf.tensors().chunks(third).enumerate() {
        let mut metadata = if part == 0 { gguf.metadata().clone() } else { Default::default() };
        metadata.insert("split.no", (part as u16).into());
        metadata.insert("split.count", 3u16.into());
        metadata.insert("split.tensors.count", (gguf.tensors().len() as i32).into());
        let mut writer = Writer::new(&metadata).expect("metadata");
        let read = |t: &TensorInfo| {
            let mut bytes = vec![0; t.bytes as usize];
            gguf.blocking_read(t, 0, &mut bytes).expect("a tensor");
            bytes
        };
        let bytes: Vec<Vec<u8>> = tensors.iter().map(read).collect();
        for (t, bytes) in tensors.iter().zip(&bytes) {
            writer.tensor(&t.name, &t.dims, t.ggml_type, bytes).expect("a tensor");
        }
        let mut file = Vec::new();
        writer.write(&mut file).expect("memory");
        std::fs::write(path(part), file).expect("a file");
    }
    Gguf::open(&path(0)).expect("a split model")
}

#[test]
fn parts_of_split_files_pass_through() {
    for name in ["qwen3", "qwen3moe"] {
        check(name, &split(name, &Made::new(name, Format::F16, &SIZES).gguf()));
    }
}

/// Two answers in turn, each of which brings its layers and experts in place of the other's.
#[test]
fn layers_pass_while_the_app_draws() {
    for name in ["llama", "qwen3moe"] {
        let gguf = Made::new(name, Format::F16, &SIZES).gguf();
        let tokens = agreement::some_tokens(20);
        let mut resident = session(&load(gpu(), &gguf).expect("a model"), SessionOptions::default());
        let expected = answer(&mut resident, &tokens, &Sampling::greedy(), 6);
        let placement = Placement::within(&gguf, least(&gguf)).expect("enough");
        let model = store::placed_on(gpu(), &gguf, placement);
        for micros in [0, 300, 5_000] {
            let mut sessions =
                [0, 1].map(|_| session(&model, SessionOptions { chunk: 8, ..SessionOptions::default() }));
            let mut said = [Vec::new(), Vec::new()];
            for s in &mut sessions {
                s.ask(&tokens, &Sampling::greedy(), &[], 6).expect("an answer");
            }
            while sessions.iter().any(Session::is_answering) {
                for (s, ids) in sessions.iter_mut().zip(&mut said) {
                    let budget = Budget::gpu_time(Duration::from_micros(micros));
                    ids.extend(s.advance(budget).expect("a device").iter().map(|t| t.id));
                }
            }
            assert_eq!(said, [expected.clone(), expected.clone()], "{name}, {micros} us");
        }
    }
}

#[test]
fn a_budget_below_the_least_is_refused_by_what_it_lacks() {
    let gguf = Made::new("qwen3moe", Format::F16, &SIZES).gguf();
    let least = least(&gguf);
    let error = Placement::within(&gguf, least - 1).expect_err("a byte too few").to_string();
    assert!(error.contains(&format!("the {least} that can do")) && error.contains("--gpu-memory"), "{error}");
}
