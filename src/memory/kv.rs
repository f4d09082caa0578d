//! What a sequence keeps from one token to the next: keys and values of every position, or a recurrent state.

use super::Result;
use crate::gpu::{Gpu, View};
use crate::ops::{KvLayer, RecurrentLayer};

/// How keys and values are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KvFormat {
    F32,
    F16,
}

impl KvFormat {
    /// Bytes a value.
    pub fn bytes(self) -> u64 {
        match self {
            KvFormat::F32 => 4,
            KvFormat::F16 => 2,
        }
    }
}

/// Values that a position takes in a layer's cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KvWidth {
    /// Of keys: kv_heads * head_dim, or the row of latent attention.
    pub k: usize,
    /// Of values; 0 where they are part of the keys.
    pub v: usize,
    /// Of a lightning indexer's keys; 0 without one.
    pub index: usize,
}

impl KvWidth {
    /// Keys and values alike.
    pub fn both(width: usize) -> KvWidth {
        KvWidth { k: width, v: width, index: 0 }
    }
}

/// What a layer keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeps {
    /// Keys and values of every position.
    Kv(KvWidth),
    /// One state, however many positions it has seen: floats of a convolution's last inputs, and of the delta rule.
    Recurrent { conv: usize, delta: usize },
}

impl Keeps {
    /// Bytes of each of its buffers.
    fn bytes(self, positions: usize, format: KvFormat) -> [u64; 3] {
        match self {
            Keeps::Kv(w) => [w.k, w.v, w.index].map(|width| layer_bytes(width, positions, format)),
            Keeps::Recurrent { conv, delta } => [conv, delta, 0].map(|floats| 4 * floats as u64),
        }
    }
}

/// One layer's buffers.
pub enum LayerCache {
    Kv(KvLayer),
    Recurrent(RecurrentLayer),
}

impl LayerCache {
    /// All that the layer keeps.
    pub fn views(&self) -> impl Iterator<Item = &View> {
        let (first, others) = match self {
            LayerCache::Kv(layer) => (&layer.k, [layer.v.as_ref(), layer.index.as_ref()]),
            LayerCache::Recurrent(layer) => (&layer.conv, [Some(&layer.delta), None]),
        };
        std::iter::once(first).chain(others.into_iter().flatten())
    }
}

/// What all layers keep of a sequence of at most `positions` tokens.
pub struct KvCache {
    pub layers: Vec<LayerCache>,
    pub positions: usize,
}

impl KvCache {
    /// A cache for `positions` tokens.
    pub fn new(gpu: &Gpu, keeps: &[Keeps], positions: usize, format: KvFormat) -> Result<Self> {
        let mut layers = Vec::with_capacity(keeps.len());
        for keeps in keeps {
            let [first, second, index] = keeps.bytes(positions, format);
            layers.push(match keeps {
                Keeps::Kv(width) => LayerCache::Kv(KvLayer {
                    k: gpu.buffer("K cache", first)?,
                    v: if width.v == 0 { None } else { Some(gpu.buffer("V cache", second)?) },
                    index: if width.index == 0 { None } else { Some(gpu.buffer("index cache", index)?) },
                    f16: format == KvFormat::F16,
                }),
                Keeps::Recurrent { .. } => LayerCache::Recurrent(RecurrentLayer {
                    conv: gpu.buffer("convolution state", first)?,
                    delta: gpu.buffer("delta state", second)?,
                }),
            });
        }
        Ok(KvCache { layers, positions })
    }

    /// Keys and values of a layer that keeps them, as its model's shape says.
    pub fn kv(&self, layer: usize) -> &KvLayer {
        match &self.layers[layer] {
            LayerCache::Kv(kv) => kv,
            LayerCache::Recurrent(_) => panic!("layer {layer} keeps a recurrent state"),
        }
    }

    /// The state of a layer that keeps one, as its model's shape says.
    pub fn recurrent(&self, layer: usize) -> &RecurrentLayer {
        match &self.layers[layer] {
            LayerCache::Recurrent(state) => state,
            LayerCache::Kv(_) => panic!("layer {layer} keeps keys and values"),
        }
    }

    /// The buffers that hold nothing of single positions: they cannot be cut back to a shorter sequence.
    pub fn states(&self) -> impl Iterator<Item = &View> {
        self.layers.iter().filter(|l| matches!(l, LayerCache::Recurrent(_))).flat_map(LayerCache::views)
    }

    /// Bytes that the cache takes.
    pub fn total_bytes(&self) -> u64 {
        self.layers.iter().flat_map(LayerCache::views).map(|view| view.size).sum()
    }

    /// Bytes that [`KvCache::new`] would take.
    pub fn bytes(keeps: &[Keeps], positions: usize, format: KvFormat) -> u64 {
        keeps.iter().flat_map(|k| k.bytes(positions, format)).fold(0, u64::saturating_add)
    }
}

/// Bytes of one layer's rows of that width; a context may be asked for that no device holds.
fn layer_bytes(width: usize, positions: usize, format: KvFormat) -> u64 {
    (width as u64).saturating_mul(positions as u64).saturating_mul(format.bytes())
}
