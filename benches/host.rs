//! What the host does beside the device's work: opening a file, laying out rows, planning where a model would lie, recording a decode
//! step, encoding its submit.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use halogen::formats::Format;
use halogen::memory::{KvFormat, Routing, plan};
use halogen::presets::{Synthetic, asked, machines, models};
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

    // What growth costs the host: the difference of two questions, of which one finds no room for its prompt.
    let ids = vec![1; 300];
    for (name, room) in [("ask", 512), ("ask, growing from 64 positions", 64)] {
        let options = SessionOptions { room, ..SessionOptions::default() };
        let ask = || {
            let mut session = Session::new(&model, &options).unwrap();
            gpu.blocking_wait().unwrap();
            let start = std::time::Instant::now();
            session.ask(&ids, &Default::default(), &[], 1).unwrap();
            start.elapsed()
        };
        criterion.bench_function(name, |b| b.iter_custom(|count| (0..count).map(|_| ask()).sum()));
    }

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

/// Rows as a load brings them, 4 MiB at once, into the layout of the device; and the copy that no layout can beat.
fn relay(criterion: &mut Criterion) {
    let (columns, chunk) = (4096, 4 << 20);
    let bytes: Vec<u8> = (0..chunk as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut group = criterion.benchmark_group("lay out rows");
    group.sample_size(20).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_millis(500));
    group.throughput(Throughput::Bytes(chunk as u64));
    let mut copy = vec![0; chunk];
    group.bench_function("copy", |b| b.iter(|| copy.copy_from_slice(&bytes)));
    for format in Format::ALL {
        let rows = chunk / format.row_bytes(columns);
        let file = &bytes[..rows * format.row_bytes(columns)];
        let mut out = vec![0; rows * format.device_row_bytes(columns)];
        group.throughput(Throughput::Bytes(file.len() as u64));
        group.bench_function(format.name(), |b| b.iter(|| format.relay(columns, file, &mut out)));
    }
    group.finish();
}

/// The preset with the most layers: what it asks for, and where it would lie on each machine preset.
fn fit(criterion: &mut Criterion) {
    let preset = models().iter().max_by_key(|preset| preset.layers()).expect("presets");
    let gguf = Synthetic::new(preset, preset.format(), preset.layers(), 1).unwrap().gguf().unwrap();
    let mut group = criterion.benchmark_group("fit");
    group.sample_size(20).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_millis(500));
    group.bench_function("ask", |b| b.iter(|| asked(&gguf, None, KvFormat::F16).unwrap()));
    let demand = asked(&gguf, None, KvFormat::F16).unwrap().demand;
    let plans = || machines().iter().map(|m| plan(&demand, &m.machine(false), Routing::Uniform, 0)).collect::<Vec<_>>();
    group.bench_function("plan on all machines", |b| b.iter(plans));
    group.finish();
}

criterion_group!(benches, relay, fit, host);
criterion_main!(benches);
