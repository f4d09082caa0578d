//! Attention over the cache, as prefill and as split decode.

use crate::cache::{self, Cut, formats};
use crate::rig::*;
use halogen::ops::{Attention, KvFormat, KvLayer, KvUse, Window, twins};
use halogen::presets::Heads;

pub fn cases(cases: &mut Vec<Case>) {
    // Decode: head size, groups and length.
    for (head_dim, groups, kv_heads, length) in [
        (16, 1, 1, 1),
        (16, 2, 2, 113),
        (32, 4, 1, 2),
        (32, 1, 3, 7),
        (64, 7, 2, 1),
        (64, 7, 2, 512),
        (64, 16, 1, 113),
        (80, 1, 4, 7),
        (80, 2, 2, 512),
        (128, 8, 4, 1024),
        (128, 4, 2, 113),
        (128, 16, 1, 7),
        (256, 1, 2, 113),
        (256, 8, 1, 1024),
        (64, 3, 2, 1025),
        (20, 2, 1, 40),
        (128, 8, 1, 4096),
        (64, 8, 1, 4097),
        (128, 5, 2, 4097),
        (256, 2, 1, 16384),
        (512, 4, 2, 113),
        (512, 8, 1, 1025),
        (512, 1, 1, 3),
        (16, 8, 32, 113), // 256 heads
    ] {
        for format in formats(head_dim) {
            add(
                cases,
                Geometry {
                    head_dim,
                    groups,
                    kv_heads,
                    tokens: 1,
                    position: length - 1,
                    format,
                    window: None,
                    sinks: false,
                    ring: None,
                },
            );
        }
    }
    // Prefill, from the start and further on.
    for (head_dim, groups, kv_heads, tokens, position) in [
        (16, 1, 2, 2, 0),
        (16, 4, 1, 33, 0),
        (32, 2, 2, 7, 5),
        (64, 7, 1, 33, 80),
        (64, 16, 1, 3, 109),
        (80, 1, 2, 129, 0),
        (128, 8, 1, 33, 31),
        (128, 4, 2, 7, 505),
        (256, 2, 1, 33, 63),
        (256, 1, 1, 2, 1),
        (64, 8, 2, 7, 1017),
        (36, 5, 1, 9, 3),
        (512, 8, 1, 7, 130),
        (512, 1, 2, 33, 0),
        (128, 8, 1, 2, 4090),
        (256, 2, 1, 2, 8190),
        (16, 8, 32, 7, 100),
    ] {
        for format in formats(head_dim) {
            let g = Geometry {
                head_dim,
                groups,
                kv_heads,
                tokens,
                position,
                format,
                window: None,
                sinks: false,
                ring: None,
            };
            add(cases, g);
        }
    }
    // Windows: shorter than a tile, no multiple of one, of one position, longer than all that there is.
    for (head_dim, groups, kv_heads, tokens, position) in [
        (32, 2, 2, 1, 39),
        (64, 8, 1, 1, 1000),
        (128, 4, 2, 1, 4095),
        (64, 8, 2, 7, 1017),
        (128, 2, 1, 129, 0),
        (32, 3, 2, 40, 130),
    ] {
        for (i, positions) in [1, 8, 100, 128, 1024, 10_000].into_iter().enumerate() {
            let format = if positions == 128 { KvFormat::F16 } else { KvFormat::F32 };
            // Chunks too; those of one position leave a token alone with itself, as windows do.
            let chunk = (i + tokens) % 2 == 0;
            let window = if chunk { Window::Chunk(positions) } else { Window::Last(positions) };
            let g = Geometry {
                head_dim,
                groups,
                kv_heads,
                tokens,
                position,
                format,
                window: Some(window),
                sinks: positions < 1000,
                ring: None,
            };
            add(cases, g);
            // A ring as short as it may be, which came round, and one that did not, or just before a tile's end.
            let least = positions + tokens - 1;
            for ring in [least, least.max(position - position % 64)] {
                let format = if positions == 128 { KvFormat::F32 } else { KvFormat::F16 };
                add(cases, Geometry { ring: Some(ring), format, ..g });
                if head_dim % 32 == 0 {
                    add(cases, Geometry { ring: Some(ring), format: KvFormat::Q8_0, ..g });
                }
            }
        }
    }
    // Rings far behind: tiles that pass their end at any place, splits too.
    for (head_dim, groups, kv_heads, tokens, ring) in
        [(32, 4, 2, 1, 130), (64, 8, 1, 1, 1100), (128, 4, 2, 33, 200), (256, 2, 1, 7, 1031), (80, 2, 2, 12, 140)]
    {
        for position in [4096, 4100, 4159, 9999] {
            for window in [Window::Last(ring - tokens), Window::Chunk(100)] {
                let all = formats(head_dim);
                let format = all[position % all.len()];
                let g = Geometry {
                    head_dim,
                    groups,
                    kv_heads,
                    tokens,
                    position,
                    format,
                    window: Some(window),
                    sinks: false,
                    ring: None,
                };
                add(cases, Geometry { ring: Some(ring), ..g });
            }
        }
    }
}

/// Decode and prefill with heads of a published model; `sinks` stand for all that a head may have.
pub fn of_model(cases: &mut Vec<Case>, heads: &Heads, kv_heads: usize, window: Option<Window>) {
    let Heads { heads, head_dim, .. } = *heads;
    let sinks = window.is_some();
    for (tokens, position) in [(1, 700), (9, 200)] {
        let groups = heads / kv_heads;
        add(
            cases,
            Geometry { head_dim, groups, kv_heads, tokens, position, format: KvFormat::F16, window, sinks, ring: None },
        );
    }
}

#[derive(Clone, Copy)]
struct Geometry {
    head_dim: usize,
    groups: usize,
    kv_heads: usize,
    tokens: usize,
    position: usize,
    format: KvFormat,
    window: Option<Window>,
    sinks: bool,
    /// Rows of the cache, if positions share them.
    ring: Option<usize>,
}

fn add(cases: &mut Vec<Case>, g: Geometry) {
    let kind = if g.tokens == 1 { "decode" } else { "prefill" };
    let name = format!(
        "attention/{kind}/dim={}/heads={}x{}/tokens={}/position={}{}{}{}/{}",
        g.head_dim,
        g.groups * g.kv_heads,
        g.kv_heads,
        g.tokens,
        g.position,
        match g.window {
            None => String::new(),
            Some(Window::Last(n)) => format!("/window={n}"),
            Some(Window::Chunk(n)) => format!("/chunk={n}"),
        },
        g.ring.map_or(String::new(), |rows| format!("/ring={rows}")),
        if g.sinks { "/sinks" } else { "" },
        cache::name(g.format),
    );
    for &shards in cache::shards(g.head_dim < 100 && (g.position + g.tokens) % 3 == 2) {
        let name = name.clone() + &cache::in_shards(shards);
        cases.push(Case::new(name, move |setup| g.run(setup, shards)));
    }
}

impl Geometry {
    fn run(self, setup: &Setup, shards: usize) -> Outcome {
        let Geometry { head_dim, groups, kv_heads, tokens, position, format, window, sinks, ring } = self;
        let heads = groups * kv_heads;
        let random = &mut Random::new((head_dim * groups + tokens + position) as u64);
        let q = random.floats(tokens * heads * head_dim);
        let positions = position + tokens;
        let (k, v) = (random.floats(positions * kv_heads * head_dim), random.floats(positions * kv_heads * head_dim));
        let mut rig = Rig::new(setup, tokens, State::at(position), &[]);
        let gpu = rig.gpu();
        // Positions not reached yet hold NaN; with many of them decode has splits without a key. So do rows of a ring that no
        // position has come to, and what lies behind it.
        let spare = if position % 3 == 1 { 3000 } else { 100 };
        let rows = ring.unwrap_or(positions + spare);
        let held = cache::Rows { rows, heads: kv_heads, dim: head_dim, format };
        let upload = |data: &[f32]| {
            let mut words = held.words(data, |p| p % rows);
            if ring.is_some() {
                words.extend([cache::UNWRITTEN; 100]);
            }
            Cut::new(gpu, words, &held, shards, KvUse::KeysAndValues).rows
        };
        let kv = KvLayer { k: upload(&k), v: Some(upload(&v)), index: None, format, ring };
        let (k, v) = (twins::kept(&k, format), twins::kept(&v, format));
        let sinks = sinks.then(|| random.floats(heads));
        let on_device = sinks.as_ref().map(|s| gpu.upload("sinks", s).unwrap());
        rig.poison("attended", q.len());
        let scale = 1.0 / (head_dim as f32).sqrt();
        let qs = tensor(gpu, &q, heads * head_dim);
        let a = Attention { heads, kv_heads, head_dim, scale, window, sinks: on_device };
        rig.run(|step| step.attention(&qs, &a, &kv).map(drop))?;
        let want = twins::attention(&q, &k, &v, heads, kv_heads, head_dim, scale, position, window, sinks.as_deref());
        compare("out", &rig.floats("attended", q.len())?, &want, head_dim, 1e-7)
    }
}
