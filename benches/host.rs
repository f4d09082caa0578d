//! What the host does beside the device's work: opening a file, recording a decode step, encoding its submit.

use criterion::{Criterion, criterion_group, criterion_main};
use halogen::{Gguf, Gpu, Model, Selector, Session, SessionOptions};
use std::time::Duration;

static DEMO: &[u8] = include_bytes!("../assets/rust-docs-moe-q4_k_m.gguf");

fn host(criterion: &mut Criterion) {
    criterion.bench_function("open a GGUF in memory", |b| b.iter(|| Gguf::from_static("demo", DEMO).unwrap()));
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/rust-docs-moe-q4_k_m.gguf");
    criterion.bench_function("open a GGUF file", |b| b.iter(|| Gguf::open(path.as_ref()).unwrap()));

    let gpu = match pollster::block_on(Gpu::new(Selector::Best)) {
        Ok(gpu) => gpu,
        Err(error) => return println!("the other benches are skipped: {error}"),
    };
    let gguf = Gguf::from_static("demo", DEMO).unwrap();
    let model = pollster::block_on(Model::load(&gpu, &gguf, |_| true)).unwrap();
    let mut session = Session::new(&model, &SessionOptions::default()).unwrap();
    criterion.bench_function("record a decode step", |b| b.iter(|| session.record_decode().unwrap()));

    // No more time than encoding takes is counted, but the device computes each step. A fresh session's state has the halt
    // word set, so the steps do little.
    let recording = session.decode_recording();
    let mut group = criterion.benchmark_group("a decode step");
    group.sample_size(10).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_millis(500));
    group.bench_function("encode", |b| {
        b.iter_custom(|steps| {
            let before = gpu.encode_time();
            for _ in 0..steps {
                gpu.submit(recording, 0..recording.dispatches.len(), &[]).unwrap();
                gpu.blocking_wait().unwrap();
            }
            gpu.encode_time() - before
        });
    });
    group.finish();
}

criterion_group!(benches, host);
criterion_main!(benches);
