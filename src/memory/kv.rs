//! The KV cache: keys and values of every layer for a fixed number of positions.

use super::Result;
use crate::gpu::Gpu;
use crate::ops::KvLayer;

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
}

impl KvWidth {
    /// Keys and values alike.
    pub fn both(width: usize) -> KvWidth {
        KvWidth { k: width, v: width }
    }
}

/// Keys and values of all layers.
pub struct KvCache {
    pub layers: Vec<KvLayer>,
    pub positions: usize,
}

impl KvCache {
    /// A cache for `positions` tokens.
    pub fn new(gpu: &Gpu, widths: &[KvWidth], positions: usize, format: KvFormat) -> Result<Self> {
        let mut layers = Vec::with_capacity(widths.len());
        for width in widths {
            let k = gpu.buffer("K cache", layer_bytes(width.k, positions, format))?;
            let v = match width.v {
                0 => None,
                v => Some(gpu.buffer("V cache", layer_bytes(v, positions, format))?),
            };
            layers.push(KvLayer { k, v, f16: format == KvFormat::F16 });
        }
        Ok(KvCache { layers, positions })
    }

    /// Bytes that [`KvCache::new`] would take.
    pub fn bytes(widths: &[KvWidth], positions: usize, format: KvFormat) -> u64 {
        let layer = |w: &KvWidth| layer_bytes(w.k + w.v, positions, format);
        widths.iter().map(layer).fold(0, u64::saturating_add)
    }
}

/// Bytes of one layer's rows of that width; a context may be asked for that no device holds.
fn layer_bytes(width: usize, positions: usize, format: KvFormat) -> u64 {
    (width as u64).saturating_mul(positions as u64).saturating_mul(format.bytes())
}
