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

/// Keys and values, per layer [positions, kv_heads * head_dim] each.
pub struct KvCache {
    pub layers: Vec<KvLayer>,
    pub positions: usize,
}

impl KvCache {
    /// A cache for `positions` tokens; `widths` are each layer's kv_heads * head_dim.
    pub fn new(gpu: &Gpu, widths: &[usize], positions: usize, format: KvFormat) -> Result<Self> {
        let mut layers = Vec::with_capacity(widths.len());
        for width in widths {
            let bytes = (width * positions) as u64 * format.bytes();
            let (k, v) = (gpu.buffer("K cache", bytes)?, gpu.buffer("V cache", bytes)?);
            layers.push(KvLayer { k, v, f16: format == KvFormat::F16 });
        }
        Ok(KvCache { layers, positions })
    }

    /// Bytes that [`KvCache::new`] would take.
    pub fn bytes(widths: &[usize], positions: usize, format: KvFormat) -> u64 {
        widths.iter().map(|w| 2 * (w * positions) as u64 * format.bytes()).sum()
    }
}
