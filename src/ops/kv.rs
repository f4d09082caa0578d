//! Where a layer's keys and values lie.

use super::Error;
use crate::gpu::View;

/// One layer's keys and values, each [rows, kv_heads, head_dim].
pub struct KvLayer {
    pub k: View,
    /// None: values are the first lanes of the keys (latent attention).
    pub v: Option<View>,
    /// Keys of a lightning indexer [positions, head size], f16 or f32 as the others.
    pub index: Option<View>,
    /// f16, else f32.
    pub f16: bool,
    /// Rows of a layer whose tokens see a window: position p lies in row p % rows. None: each position has a row of its own.
    pub ring: Option<usize>,
}

impl KvLayer {
    /// Bytes a value.
    pub(super) fn bytes(&self) -> usize {
        if self.f16 { 2 } else { 4 }
    }

    /// Rows of `width` values.
    pub(super) fn rows(&self, width: usize) -> usize {
        self.ring.unwrap_or(self.k.size as usize / (width * self.bytes()).max(1))
    }

    /// Whether a ring, if it is one, lies within its buffers and holds what the first of `tokens` tokens sees when the keys
    /// of all of them are written: `window` positions.
    pub(super) fn holds(&self, width: usize, window: Option<usize>, tokens: usize) -> bool {
        let Some(rows) = self.ring else { return true };
        let bytes = (rows as u64).saturating_mul((width * self.bytes()) as u64);
        let fits = std::iter::once(&self.k).chain(&self.v).all(|view| view.size >= bytes);
        fits && window.is_some_and(|window| window.saturating_add(tokens) <= rows + 1)
    }
}

/// Of an operator that needs them.
pub(super) fn no_values(op: &'static str) -> Error {
    Error::Shape { op, message: "a cache without values of its own".into() }
}
