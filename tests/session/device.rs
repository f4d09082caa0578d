//! Devices of the app's own, and limits below a model's tensors.

use super::*;
use halogen::formats::Format;
use halogen::gguf::Gguf;
use halogen::gpu::{Dispatch, Gpu, Tier};
use halogen::memory::expert_bytes;
use halogen::session::Sampling;
use std::sync::atomic::{AtomicUsize, Ordering};

#[test]
fn weights_in_many_shards_give_the_same_logits() {
    let sizes = Sizes { vocabulary: 300, ..TINY };
    let tokens: Vec<u32> = (0..40).map(|i| i * 7 % 300).collect();
    for name in ["llama", "qwen2", "qwen3moe"] {
        let gguf = Made::new(name, Format::F16, &sizes).gguf();
        // As much as one expert's gate; the embedding takes seven of it.
        let few = own_gpu().with_limits(3 << 10, u32::MAX).expect("a device of our own");
        let whole = load(gpu(), &gguf).expect("a model");
        let parts = load(&few, &gguf).expect("a model");
        for tier in [Tier::Core, Tier::Subgroup] {
            if gpu().require(tier).is_err() {
                continue;
            }
            let options = SessionOptions { tier: Some(tier), ..f32_cache() };
            let (mut whole, mut parts) = (session(&whole, options.clone()), session(&parts, options));
            let (one, many) = (whole.decode_recording().dispatches.len(), parts.decode_recording().dispatches.len());
            assert!(many > one + 4, "{name}: {many} dispatches in shards, {one} whole");
            for chunk in [512, 1] {
                let expected = whole.blocking_logits(&tokens, chunk).expect("logits");
                let found = parts.blocking_logits(&tokens, chunk).expect("logits");
                assert!(bits(&found) == bits(&expected), "{name}, {tier}, chunk {chunk}");
            }
            whole.clear();
            parts.clear();
            let said = answer(&mut whole, &tokens, &Sampling::greedy(), 8);
            assert_eq!(answer(&mut parts, &tokens, &Sampling::greedy(), 8), said, "{name}, {tier}");
        }
    }
}

/// Stacks of five and of three shards. Two are bound at once where a kernel has eight buffers, four where it has nine.
#[test]
fn shards_of_experts_lie_beside_each_other_in_a_dispatch() {
    let gguf = Made::new("qwen3moe", Format::F16, &Sizes { experts: 10, ..TINY }).gguf();
    let tokens = agreement::some_tokens(24);
    let options = SessionOptions { tier: Some(Tier::Core), ..f32_cache() };
    let whole = load(gpu(), &gguf).expect("a model");
    let [many, one] =
        [512, 1].map(|chunk| session(&whole, options.clone()).blocking_logits(&tokens, chunk).expect("logits"));
    for (buffers, dispatches) in [(8, 5), (9, 3), (u32::MAX, 2)] {
        // Two experts' gate and up.
        let few = own_gpu().with_limits(2 * (2 * 48 * 32) * 2, buffers).expect("a device of our own");
        let mut resident = None;
        for share in [100, 60, 30] {
            let model = store::limited_on(&few, &gguf, expert_bytes(&gguf) * share / 100);
            let mut parts = session(&model, options.clone());
            let products = |d: &&Dispatch| {
                let shader = d.kernel.spec.shader;
                d.layer == 1 && d.bindings.iter().any(|(name, _)| name == "experts") && shader != "expert_lookup"
            };
            let count = parts.decode_recording().dispatches.iter().filter(products).count();
            assert!(share < 100 || count == dispatches, "{buffers} buffers: {count} dispatches");
            let [found_many, found_one] = [512, 1].map(|chunk| parts.blocking_logits(&tokens, chunk).expect("logits"));
            assert!(bits(&found_many) == bits(&many), "{buffers} buffers, {share} %");
            // Where not all shards of a down projection are bound at once, the ranks of a token have rows of their own, too,
            // and their sum is another than that of a dispatch; but the same whatever is resident.
            let expected = if buffers == 8 { resident.get_or_insert_with(|| found_one.clone()) } else { &one };
            assert!(bits(&found_one) == bits(expected), "{buffers} buffers, {share} %, token by token");
        }
    }
}

/// An embedding that serves as the output too, larger than lavapipe binds (128 MiB). Its rows repeat after 1,000, so
/// logits must, across the seam.
#[test]
fn an_embedding_above_the_binding_limit_is_split() {
    let limit = gpu().caps().max_shard;
    if limit > 256 << 20 {
        eprintln!("skipped: the adapter binds {limit} bytes; a split takes a larger file than a test should make");
        return;
    }
    const PERIOD: usize = 1000;
    let (hidden, block) = (2048usize, 18usize);
    let row_bytes = hidden / 32 * block;
    let vocabulary = (limit as usize / row_bytes + 3 * PERIOD).next_multiple_of(PERIOD);
    let sizes = Sizes { layers: 1, hidden, heads: 2, kv_heads: 1, head_dim: 64, ff: 64, vocabulary: 4, ..TINY };
    let mut made = Made::new("llama", Format::F16, &sizes);
    made.remove("output.weight");
    made.vocabulary(vocabulary);
    let mut noise = Noise(3);
    let mut pattern = Vec::with_capacity(PERIOD * row_bytes);
    for _ in 0..PERIOD * hidden / 32 {
        // q4_0: an f16 scale near 1/64, then 32 quants.
        pattern.extend(half::f16::from_f32((1.0 + noise.value() / 2.0) / 64.0).to_le_bytes());
        pattern.extend([noise.word(), noise.word()].iter().flat_map(|w| w.to_be_bytes()));
    }
    made.put(Tensor {
        name: "token_embd.weight".into(),
        dims: vec![hidden as u64, vocabulary as u64],
        ggml_type: Format::Q4_0.ggml(),
        bytes: pattern.repeat(vocabulary / PERIOD),
    });
    let model = made.load().expect("a model");
    drop(made);
    let mut session = session(&model, SessionOptions { context: Some(16), chunk: 4, ..f32_cache() });
    let embeds = session.decode_recording().dispatches.iter().filter(|d| d.kernel.spec.shader == "embed").count();
    assert_eq!(embeds, 2, "shards of the embedding");
    // The same tokens by their ids in the first shard and in the second.
    let first: Vec<u32> = vec![0, 999, 500];
    let second: Vec<u32> = first.iter().map(|id| id + vocabulary as u32 - PERIOD as u32).collect();
    for chunk in [4, 1] {
        let logits = session.blocking_logits(&first, chunk).expect("logits");
        for row in logits.chunks_exact(vocabulary) {
            let (head, rest) = row.split_at(PERIOD);
            assert!(head.iter().all(|v| v.is_finite()) && head.iter().any(|v| v.abs() > 1e-3));
            assert!(rest.chunks_exact(PERIOD).all(|part| bits(part) == bits(head)), "chunk {chunk}");
        }
        assert!(bits(&session.blocking_logits(&second, chunk).expect("logits")) == bits(&logits), "chunk {chunk}");
    }
}

#[test]
fn an_apps_own_device_is_extended_and_left_as_it_is() {
    let mut description = wgpu::InstanceDescriptor::new_without_display_handle();
    description.flags = wgpu::InstanceFlags::empty().with_env();
    let instance = wgpu::Instance::new(description);
    let adapters = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::PRIMARY));
    let adapter = adapters.into_iter().next().expect("an adapter");

    // What the app wants, some of it above what halogen needs.
    let mut descriptor = wgpu::DeviceDescriptor { label: Some("app"), ..Default::default() };
    descriptor.required_features = adapter.features() & wgpu::Features::TIMESTAMP_QUERY;
    descriptor.required_limits = wgpu::Limits { max_bind_groups: 5, max_buffer_size: 300 << 20, ..Default::default() };
    let before = descriptor.clone();
    Gpu::extend(&adapter, &mut descriptor);
    assert!(descriptor.required_features.contains(before.required_features));
    assert!(before.required_limits.check_limits(&descriptor.required_limits), "a limit was lowered");
    assert_eq!(descriptor.required_limits.max_bind_groups, 5);
    assert_eq!(descriptor.label, Some("app"));
    // An app that asks for all there is keeps all there is.
    let mut all = wgpu::DeviceDescriptor { required_limits: adapter.limits(), ..Default::default() };
    Gpu::extend(&adapter, &mut all);
    assert_eq!(all.required_limits, adapter.limits());

    let (device, queue) = pollster::block_on(adapter.request_device(&descriptor)).expect("a device");
    let seen = Arc::new(AtomicUsize::new(0));
    let counter = seen.clone();
    device.on_uncaptured_error(Arc::new(move |_| {
        counter.fetch_add(1, Ordering::Relaxed);
    }));
    let gpu = Gpu::from_wgpu(&adapter, device.clone(), queue).expect("a device that will do");
    let model = load(&gpu, &Made::new("qwen3moe", Format::F16, &TINY).gguf()).expect("a model");
    let said = answer(&mut session(&model, SessionOptions::default()), &[1, 2, 3], &Sampling::greedy(), 4);
    assert_eq!(said.len(), 4);

    // What an app submits after a step of ours waits for it: submits are shorter than on a device of our own.
    let submits = |gpu: &Gpu| {
        let bytes = include_bytes!("../../assets/rust-docs-moe-q4_k_m.gguf");
        let model = load(gpu, &Gguf::from_static("demo", bytes).expect("the embedded model")).expect("it loads");
        let mut session = session(&model, SessionOptions::default());
        let mut generation =
            session.generate(&agreement::some_tokens(128), &Sampling::greedy(), &[], 1).expect("a generation");
        let token = generation.blocking_next().expect("a device").expect("a token");
        (token.id, generation.stats().prefill_submits)
    };
    let ((id, shared), (same, own)) = (submits(&gpu), submits(self::gpu()));
    assert!(id == same && shared > own, "{shared} submits on the app's device, {own} on our own");

    // Errors of halogen's doing are halogen's to return.
    let cpu = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::MAP_WRITE | wgpu::BufferUsages::STORAGE;
    let refused = gpu.buffer_with("impossible", 16, cpu).expect_err("usages that do not go together");
    assert!(refused.to_string().contains("impossible"), "{refused}");
    assert_eq!(seen.load(Ordering::Relaxed), 0, "the app's handler saw an error of halogen's");
    // Errors of the app's doing still reach its handler.
    let _invalid =
        device.create_buffer(&wgpu::BufferDescriptor { label: None, size: 16, usage: cpu, mapped_at_creation: false });
    assert_eq!(seen.load(Ordering::Relaxed), 1, "the app's handler was replaced");
}

#[test]
fn a_device_with_less_than_kernels_need_is_refused() {
    let mut description = wgpu::InstanceDescriptor::new_without_display_handle();
    description.flags = wgpu::InstanceFlags::empty().with_env();
    let instance = wgpu::Instance::new(description);
    let adapters = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::PRIMARY));
    let adapter = adapters.into_iter().next().expect("an adapter");
    let descriptor =
        wgpu::DeviceDescriptor { required_limits: wgpu::Limits::downlevel_webgl2_defaults(), ..Default::default() };
    let (device, queue) = pollster::block_on(adapter.request_device(&descriptor)).expect("a device");
    let refused = Gpu::from_wgpu(&adapter, device, queue).err().expect("no compute in WebGL").to_string();
    assert!(refused.contains("8 storage buffers a stage") && refused.contains("offers 0"), "{refused}");
}
