//! Shapes that do not fit are refused as they are recorded.

use crate::every::{Record, cache, compressed, delta_net, hyper_connection, latent};
use crate::rig::*;
use halogen::formats::Format;
use halogen::ops::*;

pub fn cases(cases: &mut Vec<Case>) {
    for &(name, record) in REFUSED {
        cases.push(Case::new(format!("refused/{name}"), move |setup| {
            let run = |tokens| record(&mut Rig::new(setup, tokens, State::at(0), &[]), &mut Random::new(1), tokens);
            if run(1).is_ok() || run(2).is_ok() { Err("it was recorded".into()) } else { Ok(()) }
        }));
    }
}

/// Wrong shapes, which no shader may see.
const REFUSED: &[(&str, Record)] = &[
    ("linear/columns", |rig, random, tokens| {
        let matrix = Weights::random(random, Format::F32, 8, 8).matrix(rig.gpu(), 1);
        let (x, y) =
            (tensor(rig.gpu(), &random.floats(tokens * 12), 12), tensor(rig.gpu(), &random.floats(tokens * 8), 8));
        rig.run(|step| step.add_linear(&y, &x, &matrix, None))
    }),
    ("linear/outputs", |rig, random, tokens| {
        let matrix = Weights::random(random, Format::F32, 9, 8).matrix(rig.gpu(), 1);
        let (x, y) =
            (tensor(rig.gpu(), &random.floats(tokens * 8), 8), tensor(rig.gpu(), &random.floats(tokens * 8), 8));
        rig.run(|step| step.add_linear(&y, &x, &matrix, None))
    }),
    ("linear/norm", |rig, random, tokens| {
        let matrix = Weights::random(random, Format::F32, 8, 16).matrix(rig.gpu(), 1);
        let (x, norm) = (tensor(rig.gpu(), &random.floats(tokens * 16), 16), norm(rig.gpu(), random, 8).0);
        rig.run(|step| step.norm_linear("y", &x, &norm, &matrix).map(drop))
    }),
    ("attention/q", |rig, random, tokens| {
        let a = Attention { heads: 4, kv_heads: 2, head_dim: 64, scale: 0.125, window: None, sinks: None };
        let q = tensor(rig.gpu(), &random.floats(tokens * 128), 128);
        let kv = cache(rig, &[0; 4096]);
        rig.run(|step| step.attention(&q, &a, &kv).map(drop))
    }),
    ("attention/groups", |rig, random, tokens| {
        let a = Attention { heads: 3, kv_heads: 2, head_dim: 64, scale: 0.125, window: None, sinks: None };
        let q = tensor(rig.gpu(), &random.floats(tokens * 192), 192);
        let kv = cache(rig, &[0; 4096]);
        rig.run(|step| step.attention(&q, &a, &kv).map(drop))
    }),
    ("attention/a ring without a window", |rig, random, tokens| {
        let a = Attention { heads: 4, kv_heads: 2, head_dim: 64, scale: 0.125, window: None, sinks: None };
        let q = tensor(rig.gpu(), &random.floats(tokens * 256), 256);
        let kv = KvLayer { ring: Some(64), ..cache(rig, &[0; 4096]) };
        rig.run(|step| step.attention(&q, &a, &kv).map(drop))
    }),
    ("attention/a short ring", |rig, random, tokens| {
        let window = Some(Window::Last(32));
        let a = Attention { heads: 4, kv_heads: 2, head_dim: 64, scale: 0.125, window, sinks: None };
        let q = tensor(rig.gpu(), &random.floats(tokens * 256), 256);
        let kv = KvLayer { ring: Some(32 + tokens - 2), ..cache(rig, &[0; 4096]) };
        rig.run(|step| step.attention(&q, &a, &kv).map(drop))
    }),
    ("attention/a ring beyond its buffer", |rig, random, tokens| {
        let window = Some(Window::Last(32));
        let a = Attention { heads: 4, kv_heads: 2, head_dim: 64, scale: 0.125, window, sinks: None };
        let q = tensor(rig.gpu(), &random.floats(tokens * 256), 256);
        let kv = KvLayer { ring: Some(65), ..cache(rig, &[0; 4096]) };
        rig.run(|step| step.attention(&q, &a, &kv).map(drop))
    }),
    ("attention/more shards than a kernel binds", |rig, random, tokens| {
        let a = Attention { heads: 4, kv_heads: 2, head_dim: 64, scale: 0.125, window: None, sinks: None };
        let q = tensor(rig.gpu(), &random.floats(tokens * 256), 256);
        let kv = cache(rig, &[0; 4096]);
        let cut = KvRows { shards: vec![kv.k.shards[0].clone(); 5], each: 64, grows_to: None };
        let kv = KvLayer { k: cut.clone(), v: Some(cut), ..kv };
        rig.run(|step| step.attention(&q, &a, &kv).map(drop))
    }),
    ("attention/values in other shards", |rig, random, tokens| {
        let a = Attention { heads: 4, kv_heads: 2, head_dim: 64, scale: 0.125, window: None, sinks: None };
        let q = tensor(rig.gpu(), &random.floats(tokens * 256), 256);
        let kv = cache(rig, &[0; 4096]);
        let cut = KvRows { shards: vec![kv.k.shards[0].clone(); 2], each: 64, grows_to: None };
        let kv = KvLayer { v: Some(cut), ..kv };
        rig.run(|step| step.attention(&q, &a, &kv).map(drop))
    }),
    ("delta_net/columns", |rig, random, tokens| {
        let (net, state) = delta_net(rig, random);
        let x = tensor(rig.gpu(), &random.floats(tokens * 199), 199);
        rig.run(|step| step.delta_net(&x, &net, &state).map(drop))
    }),
    ("delta_net/state", |rig, random, tokens| {
        let (net, mut state) = delta_net(rig, random);
        state.delta = state.delta.slice(0, state.delta.size - 16);
        let x = tensor(rig.gpu(), &random.floats(tokens * 200), 200);
        rig.run(|step| step.delta_net(&x, &net, &state).map(drop))
    }),
    ("gate/columns", |rig, random, tokens| {
        let (y, g) =
            (tensor(rig.gpu(), &random.floats(tokens * 64), 64), tensor(rig.gpu(), &random.floats(tokens * 16), 16));
        rig.run(|step| step.gate(&y, &g, 9, 8))
    }),
    ("latent_attention/row", |rig, random, tokens| {
        let (q, a, rope, l, kv) = latent(rig, random, tokens);
        let inputs = LatentInputs { q: &q, a: &a, at: 12, rope: &rope, selection: None };
        rig.run(|step| step.latent_attention(&inputs, &l, &kv).map(drop))
    }),
    ("latent_attention/heads", |rig, random, tokens| {
        let (q, a, rope, l, kv) = latent(rig, random, tokens);
        let l = LatentAttention { heads: 5, ..l };
        let inputs = LatentInputs { q: &q, a: &a, at: 4, rope: &rope, selection: None };
        rig.run(|step| step.latent_attention(&inputs, &l, &kv).map(drop))
    }),
    ("latent_attention/values", |rig, random, tokens| {
        let (q, a, rope, l, kv) = latent(rig, random, tokens);
        let kv = KvLayer { v: Some(kv.k.clone()), ..kv };
        let inputs = LatentInputs { q: &q, a: &a, at: 4, rope: &rope, selection: None };
        rig.run(|step| step.latent_attention(&inputs, &l, &kv).map(drop))
    }),
    ("index/weights", |rig, random, tokens| {
        let gpu = rig.gpu();
        let (q, a) = (tensor(gpu, &random.floats(tokens * 48), 48), tensor(gpu, &random.floats(tokens * 24), 24));
        let view = gpu.upload("all", &[0f32; 512]).unwrap();
        let (pairs, norm) = (RopePairs::Adjacent, [view.clone(), view.clone()]);
        let ix = Indexer { heads: 3, head_dim: 16, rope_dim: 8, pairs, top_k: 4, norm, eps: 1e-6 };
        let kv = KvLayer {
            k: view.clone().into(),
            v: None,
            index: Some(view.clone().into()),
            format: KvFormat::F32,
            ring: None,
        };
        rig.run(|step| step.index(&q, &a, [0, 22], &ix, &view, &kv).map(drop))
    }),
    ("attention/no values", |rig, random, tokens| {
        let a = Attention { heads: 4, kv_heads: 2, head_dim: 64, scale: 0.125, window: None, sinks: None };
        let q = tensor(rig.gpu(), &random.floats(tokens * 256), 256);
        let kv = KvLayer { v: None, ..cache(rig, &[0; 4096]) };
        rig.run(|step| step.attention(&q, &a, &kv).map(drop))
    }),
    ("hyper_connection/hidden", |rig, random, tokens| {
        let y = tensor(rig.gpu(), &random.floats(tokens * 68), 68);
        let hc = HyperConnection { hidden: 68, ..hyper_connection(rig, random, 64) };
        rig.run(|step| step.hyper_connection(Joining::Branch(&y), &hc).map(drop))
    }),
    ("window_rows/window", |rig, random, tokens| {
        let (c, _, cache, rope) = compressed(rig, random);
        let (q, a) =
            (tensor(rig.gpu(), &random.floats(tokens * 64), 64), tensor(rig.gpu(), &random.floats(tokens * 40), 40));
        // A ring without room for the step's tokens.
        let cache = CompressedLayer { window_rows: 15, ..cache };
        rig.run(|step| step.window_rows(&q, (&a, 8), None, &c, &rope, &cache))
    }),
    ("compress/columns", |rig, random, tokens| {
        let (_, compressor, cache, rope) = compressed(rig, random);
        let a = tensor(rig.gpu(), &random.floats(tokens * 127), 127);
        rig.run(|step| step.compress(&a, [0, 64], &compressor, &rope, &cache, Entry::Row))
    }),
    ("compress/entries", |rig, random, tokens| {
        let (_, compressor, cache, rope) = compressed(rig, random);
        let a = tensor(rig.gpu(), &random.floats(tokens * 128), 128);
        // Room for 7 entries of 32 positions.
        let cache = CompressedLayer { window_rows: 33, ..cache };
        rig.run(|step| step.compress(&a, [0, 64], &compressor, &rope, &cache, Entry::Row))
    }),
    ("compress/no sums", |rig, random, tokens| {
        let (_, compressor, cache, rope) = compressed(rig, random);
        let a = tensor(rig.gpu(), &random.floats(tokens * 128), 128);
        rig.run(|step| step.compress(&a, [0, 64], &compressor, &rope, &cache, Entry::IndexKey))
    }),
    ("compressed_attention/q", |rig, random, tokens| {
        let (c, _, cache, rope) = compressed(rig, random);
        let q = tensor(rig.gpu(), &random.floats(tokens * 60), 60);
        rig.run(|step| step.compressed_attention(&q, &c, &rope, &cache, None).map(drop))
    }),
    ("router/ranks", |rig, random, tokens| {
        let logits = tensor(rig.gpu(), &random.floats(tokens * 4), 4);
        rig.run(|step| step.route_softmax(&logits, 5, true).map(drop))
    }),
    ("router/groups", |rig, random, tokens| {
        let logits = tensor(rig.gpu(), &random.floats(tokens * 12), 12);
        let bias = rig.gpu().upload("bias", &[0f32; 12]).unwrap();
        let router = SigmoidRouter {
            bias: Some(bias),
            scoring: Scoring::Sigmoid,
            ranks: 5,
            renormalise: true,
            scale: 1.0,
            groups: (3, 1),
            shared: 0,
        };
        rig.run(|step| step.route_sigmoid(&logits, &router).map(drop))
    }),
    ("sample/vocabulary", |rig, random, tokens| {
        let logits = tensor(rig.gpu(), &random.floats(tokens * 1025), 1025);
        let buffers = SampleBuffers::new(rig.gpu(), 1024).map_err(|e| e.to_string())?;
        rig.run(|step| step.sample(&logits, &buffers))
    }),
];
