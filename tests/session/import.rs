//! Weights in the file's own pages: the bits of every other way, and errors where it cannot be had.

use super::agreement::some_tokens;
use super::passing::split;
use super::*;
use halogen::formats::Format;
use halogen::gguf::Gguf;
use halogen::gpu::{Gpu, Selector};
use halogen::memory::{Placement, Span, Upload};
use halogen::session::{LoadOptions, LoadStats, Share};
use std::path::PathBuf;
use std::sync::OnceLock;

/// A device that imports; `None`, with the reason, where there is none.
fn importing() -> Option<&'static Gpu> {
    static GPU: OnceLock<Option<Gpu>> = OnceLock::new();
    let open = || match pollster::block_on(Gpu::importing(Selector::Best)) {
        Ok(gpu) => Some(gpu),
        Err(why @ halogen::gpu::Error::Import { .. }) => {
            eprintln!("skipped: {why}");
            None
        }
        Err(error) => panic!("{error}"),
    };
    GPU.get_or_init(open).as_ref()
}

fn load_by(gpu: &Gpu, gguf: &Gguf, upload: Upload) -> halogen::session::Result<Arc<Model>> {
    let options = LoadOptions { upload: Some(upload), ..LoadOptions::default() };
    pollster::block_on(Model::load_with(gpu, gguf, &options, |_| true))
}

fn path(name: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("import");
    std::fs::create_dir_all(&folder).expect("a folder");
    folder.join(name)
}

fn written(name: &str, bytes: &[u8]) -> Gguf {
    let path = path(name);
    // An old file that somebody maps stays as it is.
    let _ = std::fs::remove_file(&path);
    std::fs::write(&path, bytes).expect("a file");
    Gguf::open(&path).expect("a model")
}

const DEMO: &[u8] = include_bytes!("../../assets/rust-docs-moe-q4_k_m.gguf");

/// Holds an import against the ring, by logits of chunks of several lengths.
fn check(gpu: &Gpu, gguf: &Gguf, name: &str, tokens: &[u32]) -> LoadStats {
    let [plain, imported] = [Upload::Ring, Upload::Import].map(|way| load_by(gpu, gguf, way).expect("a model"));
    let stats = imported.load_stats();
    assert_eq!((stats.upload, stats.bytes), (Upload::Import, plain.load_stats().bytes), "{name}");
    let [mut plain, mut imported] = [plain, imported].map(|model| session(&model, f32_cache()));
    for chunk in [512, 7, 1] {
        let [expected, found] =
            [&mut plain, &mut imported].map(|session| session.blocking_logits(tokens, chunk).expect("logits"));
        assert!(bits(&found) == bits(&expected), "{name}, chunk {chunk}");
    }
    stats
}

#[test]
fn the_embedded_model_from_a_file_says_the_same() {
    let Some(gpu) = importing() else { return };
    let gguf = written("demo.gguf", DEMO);
    let stats = check(gpu, &gguf, "demo", &prompt());
    // All of its gate, up, embedding and half of down; what is in q6_k is laid out anew.
    let share = stats.imported as f64 / stats.bytes as f64;
    assert!((0.6..0.8).contains(&share), "{share}");
    // The file is gone, its pages are not.
    let model = load_by(gpu, &gguf, Upload::Import).expect("a model");
    std::fs::remove_file(path("demo.gguf")).expect("a file");
    drop(gguf);
    let mut session = session(&model, f32_cache());
    drop(model);
    assert!(session.blocking_logits(&prompt(), 8).expect("logits").iter().all(|logit| logit.is_finite()));
    assert!(is_mapped("demo.gguf") != Some(false));
    drop(session);
    gpu.blocking_wait().expect("a device");
    assert!(is_mapped("demo.gguf") != Some(true), "pages that nobody needs are still mapped");
}

/// Whether this process maps a file of the folder, where the system says.
fn is_mapped(name: &str) -> Option<bool> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    Some(maps.contains(path(name).to_str().expect("UTF-8")))
}

#[test]
fn logits_are_those_of_the_ring() {
    let Some(gpu) = importing() else { return };
    let (tokens, sizes) = (some_tokens(24), Sizes { hidden: 64, ff: 64, ..TINY });
    for name in ["llama", "qwen3moe", "glm4moe", "deepseek2", "llama4", "qwen35moe"] {
        for format in [Format::F32, Format::F16] {
            let file = format!("{name}-{format}.gguf");
            let stats = check(gpu, &written(&file, &Made::new(name, format, &sizes).bytes()), &file, &tokens);
            // Matrices lie as on the device; fewer than half of their bytes are joined.
            assert!(stats.imported > stats.bytes / 2, "{file}: {} of {} bytes", stats.imported, stats.bytes);
        }
    }
    // All of it is laid out anew.
    let stats =
        check(gpu, &written("laid.gguf", &Made::new("qwen3moe", Format::Q8_0, &sizes).bytes()), "q8_0", &tokens);
    assert_eq!(stats.imported, 0);
}

#[test]
fn files_in_parts_and_layers_on_two_devices_are_imported() {
    let Some(gpu) = importing() else { return };
    let tokens = some_tokens(24);
    let gguf = split("import-parts", &Made::new("qwen3moe", Format::F16, &TINY).gguf());
    assert!(check(gpu, &gguf, "parts", &tokens).imported > 0);
    let other = pollster::block_on(Gpu::importing(Selector::Best)).expect("as before");
    let share = |(span, gpu): (Span, &Gpu)| Share {
        gpu: gpu.clone(),
        span,
        placement: Placement::default(),
        upload: Some(Upload::Import),
    };
    let shares: Vec<_> = Span::between(&[1]).into_iter().zip([gpu, &other]).map(share).collect();
    let model = pollster::block_on(Model::load_shares(&shares, &gguf, Default::default(), |_| true)).expect("a model");
    assert!(model.load_stats().imported > 0);
    let [expected, found] = [load_by(gpu, &gguf, Upload::Ring).expect("a model"), model]
        .map(|model| session(&model, f32_cache()).blocking_logits(&tokens, 7).expect("logits"));
    assert!(bits(&found) == bits(&expected));
}

/// Tensors that begin anywhere, and one that ends with the file.
#[test]
fn tensors_lie_anywhere_in_the_file() {
    let Some(gpu) = importing() else { return };
    for alignment in [8u32, 32, 4096] {
        let mut made = Made::new("llama", Format::F32, &TINY);
        made.metadata.insert("general.alignment", alignment.into());
        let bytes = made.bytes();
        let name = format!("aligned-{alignment}.gguf");
        let gguf = written(&name, &bytes);
        let end = gguf.tensors().iter().map(|t| t.offset + t.bytes).max();
        // Without what pads the last tensor, if anything does.
        let gguf = written(&name, &bytes[..end.expect("tensors") as usize]);
        let stats = check(gpu, &gguf, &name, &some_tokens(24));
        assert!(alignment < 32 || stats.imported > stats.bytes / 2, "{name}: {} bytes", stats.imported);
    }
}

#[test]
fn what_cannot_be_imported_is_said() {
    let made = Made::new("llama", Format::F32, &TINY);
    let file = written("refused.gguf", &made.bytes());
    let error = |gpu: &Gpu, gguf: &Gguf| match load_by(gpu, gguf, Upload::Import) {
        Ok(_) => panic!("an import that should not be"),
        Err(error) => error.to_string(),
    };
    // A device that was opened as any other. Metal needs nothing for it.
    if !cfg!(target_vendor = "apple") {
        let said = error(gpu(), &file);
        assert!(said.contains("Gpu::importing") && said.contains(&gpu().info().name), "{said}");
    }
    let Some(gpu) = importing() else { return };
    let said = error(gpu, &made.gguf());
    assert!(said.contains("made.gguf") && said.contains("no file on a disk"), "{said}");
    // A file that has shrunk since it was opened: an error, no SIGBUS.
    let to = file.tensors().last().expect("tensors").offset + 4;
    let shrunk = std::fs::OpenOptions::new().write(true).open(path("refused.gguf")).expect("a file");
    shrunk.set_len(to).expect("a shorter file");
    let said = error(gpu, &file);
    assert!(said.contains("refused.gguf: tensor "), "{said}");
}
