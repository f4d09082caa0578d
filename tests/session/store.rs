//! Experts that come and go: whatever the budget, the same bits.

use super::*;
use halogen::formats::Format;
use halogen::memory::{Backing, ExpertMemory, Placement, expert_bytes};
use halogen::session::{LoadOptions, Sampling};
use halogen::{Gguf, Gpu};

pub(super) fn limited(gguf: &Gguf, bytes: u64) -> Arc<Model> {
    limited_on(gpu(), gguf, bytes)
}

pub(super) fn limited_on(gpu: &Gpu, gguf: &Gguf, bytes: u64) -> Arc<Model> {
    let experts = ExpertMemory::within(gguf, bytes).expect("enough");
    placed_on(gpu, gguf, Placement { experts, dense: None })
}

pub(super) fn placed_on(gpu: &Gpu, gguf: &Gguf, placement: Placement) -> Arc<Model> {
    pollster::block_on(Model::load_with(gpu, gguf, &LoadOptions { placement, ..LoadOptions::default() }, |_| true))
        .expect("a model")
}

pub(super) fn embedded() -> Gguf {
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
        assert_eq!(model.weights_move(), slots < 8);
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

/// The embedded model in a file that can be cut short and made whole again.
struct Shrinking {
    path: std::path::PathBuf,
}

impl Shrinking {
    const BYTES: &[u8] = include_bytes!("../../assets/rust-docs-moe-q4_k_m.gguf");

    fn new(name: &str) -> (Shrinking, Gguf) {
        let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::write(&path, Shrinking::BYTES).expect("a file");
        let gguf = Gguf::open(&path).expect("the embedded model");
        (Shrinking { path }, gguf)
    }

    fn cut(&self, bytes: u64) {
        let file = std::fs::OpenOptions::new().write(true).open(&self.path).expect("the file");
        file.set_len(bytes).expect("a shorter file");
    }

    fn restore(&self) {
        std::fs::write(&self.path, Shrinking::BYTES).expect("the file again");
    }
}

/// The error that ends an answer, if one does before so many tokens.
fn error_of(session: &mut Session, prompt: &[u32], tokens: usize) -> Option<String> {
    let mut generation = session.generate(prompt, &Sampling::greedy(), &[], tokens).expect("a generation");
    let error = loop {
        match generation.blocking_next() {
            Ok(Some(_)) => {}
            Ok(None) => return None,
            Err(error) => break error.to_string(),
        }
    };
    assert!(matches!(generation.blocking_next(), Ok(None)), "nothing follows an error");
    Some(error)
}

#[test]
fn a_file_that_shrinks_is_an_error_and_the_model_goes_on() {
    let (file, gguf) = Shrinking::new("shrinks.gguf");
    let model = limited(&gguf, expert_bytes(&gguf) / 4);
    let mut first = session(&model, SessionOptions::default());
    file.cut(1 << 20);
    let error = error_of(&mut first, &prompt(), 8).expect("no expert can be read");
    assert!(error.contains("shrinks.gguf") && error.contains("_exps.weight"), "{error}");

    file.restore();
    let expected = answer(&mut session(&demo(), SessionOptions::default()), &prompt(), &Sampling::greedy(), 8);
    assert_eq!(answer(&mut first, &prompt(), &Sampling::greedy(), 8), expected, "the same session");
    let mut second = session(&model, SessionOptions::default());
    assert_eq!(answer(&mut second, &prompt(), &Sampling::greedy(), 8), expected, "another session");
}

/// The file is as good as gone once host memory holds what comes and goes.
#[test]
fn host_memory_stands_for_the_file() {
    let (file, gguf) = Shrinking::new("held.gguf");
    let expected = answer(&mut session(&demo(), SessionOptions::default()), &prompt(), &Sampling::greedy(), 12);
    let bytes = gguf.data_bytes();
    for placement in [
        Placement::within(&gguf, bytes / 2).expect("enough"),
        Placement::within(&gguf, bytes / 5).expect("enough"),
        Placement::with_experts_on_host(&gguf, u64::MAX, 2).expect("enough"),
        Placement::with_experts_on_host(&gguf, bytes / 2, u32::MAX).expect("enough"),
    ] {
        let options = LoadOptions { placement, backing: Backing::Host, ..LoadOptions::default() };
        let model = pollster::block_on(Model::load_with(gpu(), &gguf, &options, |_| true)).expect("a model");
        file.cut(1 << 20);
        let mut held = session(&model, SessionOptions::default());
        assert_eq!(answer(&mut held, &prompt(), &Sampling::greedy(), 12), expected, "{placement:?}");
        let stats = model.store_stats().expect("not all is resident");
        assert!(stats.misses > 0 && stats.bytes > 0, "{placement:?}: {stats:?}");
        file.restore();
    }
}

/// Kernels read experts where they are kept: nothing halts and nothing is read after the load, whatever the budget.
#[test]
fn experts_that_are_read_in_place_never_move() {
    if !matches!(gpu().info().backend, wgpu::Backend::Vulkan | wgpu::Backend::Metal) {
        eprintln!("skipped: {:?} has no host memory that kernels read", gpu().info().backend);
        return;
    }
    let (file, gguf) = Shrinking::new("in-place.gguf");
    let expected = session(&demo(), f32_cache()).blocking_logits(&prompt(), 7).expect("logits");
    let (bytes, on_host) = (gguf.data_bytes(), |layers| Placement::with_experts_on_host(&gguf, u64::MAX, layers));
    let placements = [on_host(0), on_host(2), on_host(u32::MAX), Placement::of_share(&gguf, 50, 0)];
    let read = placements.each_ref().map(|placement| placement.as_ref().ok().map(|p| p.bytes_in_place(&gguf)));
    for placement in placements.into_iter().chain([Placement::within(&gguf, bytes / 5)]) {
        let placement = placement.expect("enough");
        let options = LoadOptions { placement, backing: Backing::InPlace, ..LoadOptions::default() };
        let model = pollster::block_on(Model::load_with(gpu(), &gguf, &options, |_| true)).expect("a model");
        if placement.dense.is_none() {
            assert!(!model.weights_move());
            file.cut(1 << 20);
        }
        let mut in_place = session(&model, f32_cache());
        let lookups = |d: &&halogen::gpu::Dispatch| d.kernel.spec.shader == "expert_lookup";
        assert_eq!(in_place.decode_recording().dispatches.iter().filter(lookups).count(), 0);
        let found = in_place.blocking_logits(&prompt(), 7).expect("logits");
        assert!(bits(&found) == bits(&expected), "{placement:?}");
        assert_eq!(model.store_stats().unwrap_or_default().misses, 0);
        file.restore();
    }
    // Half of the experts lie on the device where those of the last three layers do, of six.
    let [none, two, all, half] = read.map(|read| read.expect("enough"));
    assert!(none == 0 && two > 0 && half > two && all > half, "{none} {two} {half} {all}");
}

/// Layers whose experts live in host memory have slots for those of one token; the others have all.
#[test]
fn experts_of_some_layers_live_in_host_memory() {
    let gguf = embedded();
    let placement = Placement::with_experts_on_host(&gguf, u64::MAX, 2).expect("enough");
    let model = placed_on(gpu(), &gguf, placement);
    let moving = session(&model, SessionOptions::default());
    let lookups = moving.decode_recording().dispatches.iter().filter(|d| d.kernel.spec.shader == "expert_lookup");
    assert_eq!(lookups.map(|d| d.layer).collect::<Vec<_>>(), [0, 1]);
    assert!(Placement::with_experts_on_host(&gguf, u64::MAX, 0).expect("enough").is_resident());
}

/// Some of what a layer lacks is read, in place of experts that were there, before a read fails: nobody may find those.
#[test]
fn experts_that_made_room_for_a_failed_read_are_gone() {
    let (file, gguf) = Shrinking::new("half-read.gguf");
    let model = limited(&gguf, expert_bytes(&gguf) / 2);
    let mut moving = session(&model, SessionOptions::default());
    let mut resident = session(&demo(), SessionOptions::default());
    let texts =
        ["A trait object is", "fn main() { let", "The heap grows when", "Iterators are lazy:", "Match arms", "unsafe"];
    let mut errors = 0;
    for text in texts {
        let prompt = demo().tokenizer().encode(text, Special::Text);
        // The last experts of the last layer's last stack.
        file.cut(Shrinking::BYTES.len() as u64 - (150 << 10));
        errors += usize::from(error_of(&mut moving, &prompt, 24).is_some());
        file.restore();
        let expected = resident.blocking_logits(&prompt, 1).expect("logits");
        assert!(bits(&moving.blocking_logits(&prompt, 1).expect("logits")) == bits(&expected), "{text}");
    }
    assert!(errors > 2, "{errors} reads failed");
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
