//! What holds for every operator: halted, it writes nothing; the same input gives the same bits.

use crate::rig::*;
use halogen::formats::Format;
use halogen::gpu::View;
use halogen::ops::{
    Activation, Attention, CompressedAttention, CompressedLayer, Compressor, DeltaHeads, DeltaNet, Entry, ExpertGateUp,
    ExpertMlp, GateUp, HashRouter, Heads, HyperConnection, IndexQueries, Indexer, Joining, KeySharing, KvFormat,
    KvLayer, LatentAttention, LatentInputs, RecurrentLayer, RopePairs, Routing, SampleBuffers, Tensor,
};

pub type Record = fn(&mut Rig, &mut Random, usize) -> Outcome;

/// Every operator once; it gets one token and several.
const OPERATORS: &[(&str, Record)] = &[
    ("embed", |rig, random, tokens| {
        rig.poison("x", tokens * 256);
        let table = Weights::random(random, Format::Q4K, 8, 256).matrix(rig.gpu(), 2);
        rig.run(|step| step.embed(&table, 1.0).map(drop))
    }),
    ("rms_norm", |rig, random, tokens| {
        rig.poison("normed", tokens * 1000);
        let (x, norm) = (tensor(rig.gpu(), &random.floats(tokens * 1000), 1000), norm(rig.gpu(), random, 1000).0);
        rig.run(|step| step.rms_norm(&x, &norm).map(drop))
    }),
    ("add_norm", |rig, random, tokens| {
        let (x, norm) = (tensor(rig.gpu(), &random.floats(tokens * 1000), 1000), norm(rig.gpu(), random, 1000).0);
        let y = tensor(rig.gpu(), &random.floats(tokens * 1000), 1000);
        rig.watch(&y.view);
        rig.run(|step| step.add_norm(&y, &x, &norm))
    }),
    ("glu", |rig, random, tokens| {
        let y = tensor(rig.gpu(), &random.floats(tokens * 100), 100);
        let u = tensor(rig.gpu(), &random.floats(tokens * 120), 120);
        rig.watch(&y.view);
        rig.run(|step| step.glu(&y, &u, 8, Activation::GeluTanh))
    }),
    ("softcap", |rig, random, tokens| {
        let y = tensor(rig.gpu(), &random.floats(tokens * 100), 100);
        rig.watch(&y.view);
        rig.run(|step| step.softcap(&y, 30.0))
    }),
    ("norm_linear", |rig, random, tokens| {
        rig.poison("normed", tokens * 512);
        rig.poison("y", tokens * 70);
        let (x, norm) = (tensor(rig.gpu(), &random.floats(tokens * 512), 512), norm(rig.gpu(), random, 512).0);
        let matrix = Weights::random(random, Format::Q6K, 70, 512).matrix(rig.gpu(), 1);
        rig.run(|step| step.norm_linear("y", &x, &norm, &matrix).map(drop))
    }),
    ("norm_gate_up", |rig, random, tokens| {
        rig.poison("normed", tokens * 64);
        rig.poison("h", tokens * 70);
        let (x, norm) = (tensor(rig.gpu(), &random.floats(tokens * 64), 64), norm(rig.gpu(), random, 64).0);
        let gate_up = GateUp::Joined(Weights::random(random, Format::Q8_0, 140, 64).matrix(rig.gpu(), 1));
        rig.run(|step| step.norm_gate_up(&x, &norm, &gate_up, Activation::Silu).map(drop))
    }),
    ("add_linear", |rig, random, tokens| {
        let x = tensor(rig.gpu(), &random.floats(tokens * 4096), 4096);
        let y = tensor(rig.gpu(), &random.floats(tokens * 10), 10);
        rig.watch(&y.view);
        let matrix = Weights::random(random, Format::F16, 10, 4096).matrix(rig.gpu(), 1);
        rig.run(|step| step.add_linear(&y, &x, &matrix, None))
    }),
    ("heads", |rig, random, tokens| {
        let (heads, kv_heads, head_dim) = (4, 2, 64);
        rig.poison("q", tokens * heads * head_dim);
        let qkv = tensor(rig.gpu(), &random.floats(tokens * 512), 512);
        let kv = cache(rig, &vec![POISON; 32 * kv_heads * head_dim / 2]);
        let rope = rig.gpu().upload("rope", &vec![[0.6f32, 0.8]; 32 * 32]).unwrap();
        let norm = norm(rig.gpu(), random, head_dim).0;
        let qk_norm = Some((&norm, &norm));
        let pairs = RopePairs::HalfSplit;
        let h = Heads {
            heads,
            kv_heads,
            head_dim,
            at: [0, 256, 384],
            qk_norm,
            v_norm: false,
            pairs,
            rope: &rope,
            rope_dim: head_dim,
            temperature: None,
        };
        rig.run(|step| step.heads(&qkv, &h, &kv).map(drop))
    }),
    ("attention", |rig, random, tokens| {
        let a = Attention { heads: 4, kv_heads: 2, head_dim: 64, scale: 0.125, window: None, sinks: None };
        rig.poison("attended", tokens * 256);
        if tokens == 1 {
            rig.poison("split sums", 16 * 256);
            rig.poison("split stats", 16 * 8);
        }
        let q = tensor(rig.gpu(), &random.floats(tokens * 256), 256);
        let kv =
            cache(rig, &(0..32 * 64).map(|_| 0x3c00_3800 ^ random.word() as u32 & 0x83ff_83ff).collect::<Vec<_>>());
        rig.run(|step| step.attention(&q, &a, &kv).map(drop))
    }),
    ("delta_net", |rig, random, tokens| {
        let (net, state) = delta_net(rig, random);
        rig.poison("delta q k v", tokens * DELTA_HEADS.channels());
        rig.poison("delta", tokens * DELTA_HEADS.inner());
        rig.watch(&state.conv);
        rig.watch(&state.delta);
        let x = tensor(rig.gpu(), &random.floats(tokens * 200), 200);
        rig.run(|step| step.delta_net(&x, &net, &state).map(drop))
    }),
    ("delta_net in chunks", |rig, random, tokens| {
        let (net, state) = delta_net(rig, random);
        rig.poison("delta chunks", DELTA_HEADS.value_heads * DeltaHeads::CHUNK_FLOATS * 32);
        rig.poison("delta", tokens * DELTA_HEADS.inner());
        rig.watch(&state.conv);
        rig.watch(&state.delta);
        let x = tensor(rig.gpu(), &random.floats(tokens * 200), 200);
        rig.run(|step| {
            step.tune(|tuning| tuning.delta_chunked = 1);
            step.delta_net(&x, &net, &state).map(drop)
        })
    }),
    ("gate", |rig, random, tokens| {
        let (y, g) =
            (tensor(rig.gpu(), &random.floats(tokens * 64), 64), tensor(rig.gpu(), &random.floats(tokens * 16), 16));
        rig.watch(&y.view);
        rig.run(|step| step.gate(&y, &g, 8, 8))
    }),
    ("latent_attention", |rig, random, tokens| {
        let (q, a, rope, l, kv) = latent(rig, random, tokens);
        for (name, columns) in [("latent queries", 4 * 48), ("attended", 4 * 32), ("values", 4 * 32)] {
            rig.poison(name, tokens * columns);
        }
        let inputs = LatentInputs { q: &q, a: &a, at: 4, rope: &rope, selection: None };
        rig.run(|step| step.latent_attention(&inputs, &l, &kv).map(drop))
    }),
    ("index", |rig, random, tokens| {
        rig.poison("selected", tokens * 4);
        rig.poison("index scores", tokens * 32);
        let gpu = rig.gpu();
        let q = tensor(gpu, &random.floats(tokens * 48), 48);
        rig.watch(&q.view);
        let a = tensor(gpu, &random.floats(tokens * 24), 24);
        let norm = [1.0f32, 0.0].map(|value| gpu.upload("norm", &[value; 16]).unwrap());
        let rope = gpu.upload("rope", &[[0.6f32, 0.8]; 32 * 4]).unwrap();
        let keys = gpu.upload("cache", &random.floats(32 * 16)).unwrap();
        rig.watch(&keys);
        let pairs = RopePairs::Adjacent;
        let ix = Indexer { heads: 3, head_dim: 16, rope_dim: 8, pairs, top_k: 4, norm, eps: 1e-6 };
        let kv =
            KvLayer { k: keys.clone().into(), v: None, index: Some(keys.into()), format: KvFormat::F32, ring: None };
        rig.run(|step| step.index(&q, &a, [0, 16], &ix, &rope, &kv).map(drop))
    }),
    ("hyper_connection", |rig, random, tokens| {
        let y = tensor(rig.gpu(), &random.floats(tokens * 64), 64);
        for (name, columns) in [("streams", 256), ("stream mix", 20), ("of streams", 64)] {
            rig.poison(name, tokens * columns);
        }
        let hc = hyper_connection(rig, random, 64);
        rig.run(|step| step.hyper_connection(Joining::Embedding(&y), &hc).map(drop))
    }),
    ("window_rows", |rig, random, tokens| {
        let (c, _, cache, rope) = compressed(rig, random);
        let [q, index_q] = [64, 32].map(|columns| tensor(rig.gpu(), &random.floats(tokens * columns), columns));
        let a = tensor(rig.gpu(), &random.floats(tokens * 40), 40);
        [&q.view, &index_q.view, &cache.kv.k.shards[0]].into_iter().for_each(|view| rig.watch(view));
        let index = Some(IndexQueries { q: &index_q, heads: 2 });
        rig.run(|step| step.window_rows(&q, (&a, 8), index, &c, &rope, &cache))
    }),
    ("compress", |rig, random, tokens| {
        let (_, compressor, cache, rope) = compressed(rig, random);
        let a = tensor(rig.gpu(), &random.floats(tokens * 128), 128);
        rig.watch(&cache.kv.k.shards[0]);
        rig.watch(cache.sums.as_ref().expect("sums"));
        rig.run(|step| step.compress(&a, [0, 64], &compressor, &rope, &cache, Entry::Row))
    }),
    ("compressed_attention", |rig, random, tokens| {
        let (c, _, cache, rope) = compressed(rig, random);
        let q = tensor(rig.gpu(), &random.floats(tokens * 64), 64);
        rig.poison("attended", tokens * 64);
        rig.run(|step| step.compressed_attention(&q, &c, &rope, &cache, None).map(drop))
    }),
    ("hashed router", |rig, random, tokens| {
        rig.poison("routed", tokens * 4);
        rig.poison("gates", tokens * 4);
        let logits = tensor(rig.gpu(), &random.floats(tokens * 16), 16);
        let table = rig.gpu().upload("table", &(0..8 * 4).map(|i| i % 16).collect::<Vec<u32>>()).unwrap();
        let router = HashRouter { table, ranks: 4, renormalise: true, scale: 1.0, shared: 0 };
        rig.run(|step| step.route_hashed(&logits, &router).map(drop))
    }),
    ("router", |rig, random, tokens| {
        rig.poison("routed", tokens * 8);
        rig.poison("gates", tokens * 8);
        let logits = tensor(rig.gpu(), &random.floats(tokens * 128), 128);
        rig.run(|step| step.route_softmax(&logits, 8, false).map(drop))
    }),
    ("experts", |rig, random, tokens| {
        let (experts, ranks, hidden, ff) = (8, 4, 256, 64);
        rig.poison("expert h", tokens * ranks * ff);
        if tokens > 1 {
            for (name, len) in [
                ("expert rows", tokens * ranks * hidden),
                ("expert order", tokens * ranks),
                ("expert tiles", 4 * (tokens * ranks + experts)),
                ("normed", tokens * hidden),
            ] {
                rig.poison(name, len);
            }
        }
        let gpu = rig.gpu();
        let y = tensor(gpu, &random.floats(tokens * hidden), hidden);
        rig.watch(&y.view);
        let norm = norm(gpu, random, hidden).0;
        let routed: Vec<u32> = (0..tokens * ranks).map(|i| ((i * 3) % experts) as u32).collect();
        let gates = gpu.upload("gates", &vec![0.25f32; tokens * ranks]).unwrap();
        let routing = Routing { routed: gpu.upload("routed", &routed).unwrap(), gates, experts, ranks };
        let gate = Weights::random(random, Format::Q4K, experts * ff, hidden).stack(gpu, experts, 2);
        let up = Weights::random(random, Format::Q4K, experts * ff, hidden).stack(gpu, experts, 1);
        let down = Weights::random(random, Format::Q8_0, experts * hidden, ff).stack(gpu, experts, 1);
        let gate_up = ExpertGateUp::Split { gate, up };
        let mlp = ExpertMlp { gate_up, down, bias: None, activation: Activation::Silu };
        rig.run(|step| step.norm_experts(&y, &norm, &routing, &mlp))
    }),
    ("sample", |rig, random, tokens| {
        let logits = tensor(rig.gpu(), &random.floats(tokens * 3000), 3000);
        let buffers = SampleBuffers::new(rig.gpu(), 3000).map_err(|e| e.to_string())?;
        let (state, history) = (rig.state.clone(), rig.history.clone());
        rig.watch(&state);
        rig.watch(&history);
        rig.run(|step| step.sample(&logits, &buffers))
    }),
];

pub fn cases(cases: &mut Vec<Case>) {
    for &(name, record) in OPERATORS {
        for tokens in [1, 9] {
            cases.push(Case::new(format!("halted/{name}/tokens={tokens}"), move |setup| {
                let (before, after) = once(setup, record, tokens, 1)?;
                if before == after { Ok(()) } else { Err("a halted kernel wrote".into()) }
            }));
            cases.push(Case::new(format!("repeats/{name}/tokens={tokens}"), move |setup| {
                let (before, first) = once(setup, record, tokens, 0)?;
                let (_, second) = once(setup, record, tokens, 0)?;
                if before.iter().zip(&first).any(|(before, after)| before == after) && tokens > 1 {
                    return Err("an output was not written at all".into());
                }
                if first == second { Ok(()) } else { Err("two runs differ".into()) }
            }));
        }
    }
}

/// The watched buffers before and after one run.
fn once(setup: &Setup, record: Record, tokens: usize, halt: u32) -> Result<(Words, Words), String> {
    let state = State { halt, temperature: 1.0, top_k: 50, top_p: 0.9, seed: 9, ..State::at(7) };
    let mut rig = Rig::new(setup, tokens, state, &[1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7, 0]);
    record(&mut rig, &mut Random::new(tokens as u64), tokens)?;
    Ok((rig.before.clone(), rig.snapshot()))
}

/// A watched f16 cache of 32 positions.
pub fn cache(rig: &mut Rig, words: &[u32]) -> KvLayer {
    let upload = |rig: &mut Rig| -> View {
        let view = rig.gpu().upload("cache", words).unwrap();
        if words[0] == POISON {
            rig.watch(&view);
        }
        view
    };
    KvLayer { k: upload(rig).into(), v: Some(upload(rig).into()), index: None, format: KvFormat::F16, ring: None }
}

/// Four heads on a latent of 32 and 16 rotated lanes, from column 4 of 56 on, with a watched cache of 32 positions.
pub fn latent(rig: &mut Rig, random: &mut Random, tokens: usize) -> (Tensor, Tensor, View, LatentAttention, KvLayer) {
    let gpu = rig.gpu();
    let q = tensor(gpu, &random.floats(tokens * 4 * 48), 4 * 48);
    let a = tensor(gpu, &random.floats(tokens * 56), 56);
    let rope = gpu.upload("rope", &[[0.6f32, 0.8]; 32 * 8]).unwrap();
    let stack = |random: &mut Random| in_order(&Weights::random(random, Format::F16, 4 * 32, 32), gpu, 4, 1);
    let (k_b, v_b) = (stack(random), stack(random));
    let norm = norm(gpu, random, 32).0;
    let l = LatentAttention { heads: 4, rank: 32, rope_dim: 16, scale: 0.15, norm, k_b, v_b };
    let k = gpu.upload("cache", &vec![0x3c00_3800u32; 32 * 24]).unwrap();
    rig.watch(&k);
    (q, a, rope, l, KvLayer { k: k.into(), v: None, index: None, format: KvFormat::F16, ring: None })
}

/// Streams of `hidden` columns.
pub fn hyper_connection(rig: &Rig, random: &mut Random, hidden: usize) -> HyperConnection {
    let mut floats = |len: usize| rig.gpu().upload("floats", &random.floats(len)).unwrap();
    HyperConnection {
        matrix: floats(24 * 4 * hidden),
        base: floats(24),
        scale: floats(3),
        hidden,
        head: false,
        norm_eps: 1e-6,
        eps: 1e-6,
        iterations: 20,
    }
}

/// Two heads of 32 that see 16 positions of 32, and entries of 4 that overlap.
pub fn compressed(rig: &Rig, random: &mut Random) -> (CompressedAttention, Compressor, CompressedLayer, View) {
    let gpu = rig.gpu();
    let (heads, head_dim, rope_dim) = (2, 32, 16);
    let mut up = |len: usize| gpu.upload("floats", &random.floats(len)).unwrap();
    let (sinks, place, k, sums) =
        (up(heads), up(4 * 64), up((32 + 8) * head_dim), up(Compressor::sums(head_dim, true)));
    let rope = gpu.upload("rope", &[[0.6f32, 0.8]; 32 * 8]).unwrap();
    let mut of_rows = || norm(gpu, random, head_dim).0;
    let (window, ratio) = (16, Some(4));
    let attention =
        CompressedAttention { heads, head_dim, rope_dim, scale: 0.2, window, ratio, sinks, norm: of_rows() };
    let compressor = Compressor { ratio: 4, overlap: true, head_dim, rope_dim, place, norm: of_rows() };
    let kv = KvLayer { k: k.into(), v: None, index: None, format: KvFormat::F32, ring: None };
    (attention, compressor, CompressedLayer { kv, window_rows: 32, sums: Some(sums), index_sums: None }, rope)
}

/// A delta net whose z, b and a lie behind its 128 channels, and its state.
/// Of the delta nets here.
const DELTA_HEADS: DeltaHeads =
    DeltaHeads { key_heads: 2, value_heads: 4, key_dim: 16, value_dim: 16, taps: 4, sharing: KeySharing::Tiled };

pub fn delta_net(rig: &Rig, random: &mut Random) -> (DeltaNet, RecurrentLayer) {
    let heads = DELTA_HEADS;
    let mut floats = |len: usize| rig.gpu().upload("floats", &random.floats(len)).unwrap();
    let [conv, delta] = heads.state().map(&mut floats);
    let (taps, gates) = (floats(heads.taps * heads.channels()), floats(2 * heads.value_heads));
    let norm = norm(rig.gpu(), random, heads.value_dim).0;
    (DeltaNet { heads, at: [128, 192, 196], taps, gates, norm }, RecurrentLayer { conv, delta })
}
