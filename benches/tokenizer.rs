//! Encoding with the demo model's vocabulary: a megabyte of prose, and the megabytes that are hard on merges.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use halogen::gguf::Gguf;
use halogen::tokenizer::{Chat, ChatTemplate, Control, Special, Tokenizer};

const MEGABYTE: usize = 1 << 20;

fn filled(pattern: &str) -> String {
    pattern
        .chars()
        .cycle()
        .scan(0, |bytes, c| {
            *bytes += c.len_utf8();
            (*bytes <= MEGABYTE).then_some(c)
        })
        .collect()
}

fn tokenizer(criterion: &mut Criterion) {
    // HALOGEN_VOCABULARY: another file to measure.
    let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/rust-docs-moe-q4_k_m.gguf");
    let path = std::env::var("HALOGEN_VOCABULARY").unwrap_or(demo.to_owned());
    let file = Gguf::open(path.as_ref()).unwrap();
    let tokenizer = Tokenizer::from_metadata(file.metadata()).unwrap();

    let mut group = criterion.benchmark_group("encode 1 MiB");
    group.throughput(Throughput::Bytes(MEGABYTE as u64)).sample_size(10);
    let prose =
        "Returns the contained value, consuming `self`. Panics if it is None: use unwrap_or_else() instead!\n\n";
    for (name, text) in [
        ("prose", filled(prose)),
        ("spaces", filled(" ")),
        ("one letter", filled("a")),
        ("one mark", filled("<")),
        ("mixed scripts", filled("Ünïcode 你好世界 हिन्दी ひらがな 🦙🚀 Български 12345\r\n\t")),
        ("letters of mixed scripts", filled("aé你ह🦙ñ好б")),
    ] {
        group.bench_function(name, |b| b.iter(|| tokenizer.encode(&text, Special::Text)));
    }
    group.finish();

    let ids = tokenizer.encode(&filled(prose), Special::Text);
    let mut group = criterion.benchmark_group("decode");
    group.throughput(Throughput::Elements(ids.len() as u64)).sample_size(10);
    group.bench_function("at once", |b| b.iter(|| tokenizer.decode(&ids, Control::Skip)));
    group.bench_function("token by token", |b| {
        let decode =
            |mut stream: halogen::tokenizer::Decoder| ids.iter().map(|id| stream.push(*id).len()).sum::<usize>();
        b.iter_batched(|| tokenizer.stream(Control::Skip), decode, BatchSize::SmallInput);
    });
    group.finish();

    criterion.bench_function("vocabulary", |b| b.iter(|| Tokenizer::from_metadata(file.metadata()).unwrap()));
    if let Some(template) = ChatTemplate::from_metadata(file.metadata()).unwrap() {
        let message = |i| serde_json::json!({"role": if i % 2 == 0 { "user" } else { "assistant" }, "content": prose});
        let chat = Chat { messages: (0..100).map(message).collect(), ..Chat::default() };
        criterion.bench_function("chat of 100 messages", |b| {
            b.iter(|| tokenizer.encode_chat(&template, &chat, Special::Text).unwrap());
        });
    }
}

criterion_group!(benches, tokenizer);
criterion_main!(benches);
