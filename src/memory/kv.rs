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
            let bytes = layer_bytes(*width, positions, format);
            let (k, v) = (gpu.buffer("K cache", bytes)?, gpu.buffer("V cache", bytes)?);
            layers.push(KvLayer { k, v, f16: format == KvFormat::F16 });
        }
        Ok(KvCache { layers, positions })
    }

    /// Bytes that [`KvCache::new`] would take.
    pub fn bytes(widths: &[usize], positions: usize, format: KvFormat) -> u64 {
        widths.iter().map(|w| layer_bytes(*w, positions, format).saturating_mul(2)).fold(0, u64::saturating_add)
    }
}

/// Bytes of one layer's keys or values; a context may be asked for that no device holds.
fn layer_bytes(width: usize, positions: usize, format: KvFormat) -> u64 {
    (width as u64).saturating_mul(positions as u64).saturating_mul(format.bytes())
}
