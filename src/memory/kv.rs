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

/// What a layer keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeps {
    /// Keys and values of every position, of so many columns each: kv_heads * head_dim.
    Kv(usize),
    /// One state, however many positions it has seen: floats of a convolution's last inputs, and of the delta rule.
    Recurrent { conv: usize, delta: usize },
}

impl Keeps {
    /// Bytes of each of its two buffers; a context may be asked for that no device holds.
    fn bytes(self, positions: usize, format: KvFormat) -> [u64; 2] {
        match self {
            Keeps::Kv(width) => [(width as u64).saturating_mul(positions as u64).saturating_mul(format.bytes()); 2],
            Keeps::Recurrent { conv, delta } => [conv, delta].map(|floats| 4 * floats as u64),
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
    pub fn views(&self) -> [&View; 2] {
        match self {
            LayerCache::Kv(layer) => [&layer.k, &layer.v],
            LayerCache::Recurrent(layer) => [&layer.conv, &layer.delta],
        }
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
            let [first, second] = keeps.bytes(positions, format);
            layers.push(match keeps {
                Keeps::Kv(_) => LayerCache::Kv(KvLayer {
                    k: gpu.buffer("K cache", first)?,
                    v: gpu.buffer("V cache", second)?,
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
