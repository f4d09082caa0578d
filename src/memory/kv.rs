//! What a sequence keeps from one token to the next: keys and values of every position, or a recurrent state.

use super::Result;
use crate::gpu::{Gpu, View};
use crate::ops::{CompressedLayer, KvLayer, RecurrentLayer};

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

/// What a layer with compressed keys keeps: see [`CompressedLayer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compressed {
    /// Values of a row, of a position or of an entry.
    pub row: usize,
    /// Positions that a token sees by rows of their own, the last.
    pub window: usize,
    /// Positions of an entry; none: there are no entries.
    pub ratio: Option<usize>,
    /// Of an entry's key for the indexer; 0 without one.
    pub index: usize,
    /// Floats that windows which are not full come to, of entries and of their keys for the indexer.
    pub sums: [usize; 2],
}

impl Compressed {
    /// Entries of so many positions.
    pub fn entries(&self, positions: usize) -> usize {
        self.ratio.map_or(0, |ratio| positions / ratio)
    }
}

/// What a layer keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeps {
    /// Keys and values of every position.
    Kv(KvWidth),
    /// One state, however many positions it has seen: floats of a convolution's last inputs, and of the delta rule.
    Recurrent { conv: usize, delta: usize },
    /// Keys, which are the values, of the last positions, and entries that stand for several positions each.
    Compressed(Compressed),
}

impl Keeps {
    /// Bytes of each of its buffers.
    fn bytes(self, positions: usize, format: KvFormat) -> [u64; 4] {
        match self {
            Keeps::Kv(w) => [w.k, w.v, w.index, 0].map(|width| layer_bytes(width, positions, format)),
            Keeps::Recurrent { conv, delta } => [conv, delta, 0, 0].map(|floats| 4 * floats as u64),
            Keeps::Compressed(c) => {
                let entries = c.entries(positions);
                let [sums, index_sums] = c.sums.map(|floats| 4 * floats as u64);
                let rows = layer_bytes(c.row, positions.saturating_add(entries), format);
                [rows, sums, layer_bytes(c.index, entries.max(1), format), index_sums]
            }
        }
    }
}

/// One layer's buffers.
pub enum LayerCache {
    Kv(KvLayer),
    Recurrent(RecurrentLayer),
    Compressed(CompressedLayer),
}

impl LayerCache {
    /// What of it holds nothing of single positions.
    fn states(&self) -> [Option<&View>; 2] {
        match self {
            LayerCache::Recurrent(layer) => [Some(&layer.conv), Some(&layer.delta)],
            LayerCache::Compressed(layer) => [layer.sums.as_ref(), layer.index_sums.as_ref()],
            LayerCache::Kv(_) => [None, None],
        }
    }

    /// All that the layer keeps.
    pub fn views(&self) -> impl Iterator<Item = &View> {
        let (first, others) = match self {
            LayerCache::Kv(layer) => (&layer.k, [layer.v.as_ref(), layer.index.as_ref(), None]),
            LayerCache::Recurrent(layer) => (&layer.conv, [Some(&layer.delta), None, None]),
            LayerCache::Compressed(layer) => {
                (&layer.kv.k, [layer.kv.index.as_ref(), layer.sums.as_ref(), layer.index_sums.as_ref()])
            }
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
            let [first, second, index, fourth] = keeps.bytes(positions, format);
            let buffer = |name: &str, bytes: u64| (bytes > 0).then(|| gpu.buffer(name, bytes)).transpose();
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
                Keeps::Compressed(_) => LayerCache::Compressed(CompressedLayer {
                    kv: KvLayer {
                        k: gpu.buffer("K cache", first)?,
                        v: None,
                        index: buffer("index cache", index)?,
                        f16: format == KvFormat::F16,
                    },
                    window_rows: positions,
                    sums: buffer("window sums", second)?,
                    index_sums: buffer("index window sums", fourth)?,
                }),
            });
        }
        Ok(KvCache { layers, positions })
    }

    /// Keys and values of a layer that keeps them, as its model's shape says.
    pub fn kv(&self, layer: usize) -> &KvLayer {
        match &self.layers[layer] {
            LayerCache::Kv(kv) => kv,
            _ => panic!("layer {layer} keeps no keys and values"),
        }
    }

    /// The state of a layer that keeps one, as its model's shape says.
    pub fn recurrent(&self, layer: usize) -> &RecurrentLayer {
        match &self.layers[layer] {
            LayerCache::Recurrent(state) => state,
            _ => panic!("layer {layer} keeps no recurrent state"),
        }
    }

    /// The rows and entries of a layer that keeps them, as its model's shape says.
    pub fn compressed(&self, layer: usize) -> &CompressedLayer {
        match &self.layers[layer] {
            LayerCache::Compressed(layer) => layer,
            _ => panic!("layer {layer} keeps no compressed keys"),
        }
    }

    /// The buffers that hold nothing of single positions: they cannot be cut back to a shorter sequence.
    pub fn states(&self) -> impl Iterator<Item = &View> {
        self.layers.iter().flat_map(LayerCache::states).flatten()
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
