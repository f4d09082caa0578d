//! Where a layer's keys and values lie.

use super::Error;
use crate::gpu::{KernelSpec, View};

/// How keys and values are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KvFormat {
    F32,
    #[default]
    F16,
    /// Blocks of 32 along the head: i8, times an f16. Behind the values of all rows lie the scales of all rows, of each head
    /// in words of its own.
    Q8_0,
}

impl KvFormat {
    /// As `-ctk` says it.
    pub fn name(self) -> &'static str {
        match self {
            KvFormat::F32 => "f32",
            KvFormat::F16 => "f16",
            KvFormat::Q8_0 => "q8_0",
        }
    }

    /// Values of a block; heads are a multiple of it.
    pub fn block(self) -> usize {
        if self == KvFormat::Q8_0 { 32 } else { 1 }
    }

    /// Bytes of the planes of a row of `heads` heads of `dim` values: values, and scales.
    pub fn planes(self, heads: usize, dim: usize) -> [u64; 2] {
        let (heads, dim) = (heads as u64, dim as u64);
        match self {
            KvFormat::F32 => [4 * heads * dim, 0],
            KvFormat::F16 => [2 * heads * dim, 0],
            KvFormat::Q8_0 => [heads * dim, heads * 4 * (dim / 32).div_ceil(2)],
        }
    }

    /// Bytes of a row of `heads` heads of `dim` values.
    pub fn row_bytes(self, heads: usize, dim: usize) -> u64 {
        self.planes(heads, dim).iter().sum()
    }

    /// That of an indexer's keys beside: they are never less than f16.
    pub fn of_index(self) -> KvFormat {
        if self == KvFormat::F32 { KvFormat::F32 } else { KvFormat::F16 }
    }

    /// Has a kernel read or write it.
    pub(super) fn flag(self, spec: KernelSpec) -> KernelSpec {
        spec.flag("KV_F16", self == KvFormat::F16).flag("KV_Q8_0", self == KvFormat::Q8_0)
    }
}

/// One layer's keys and values, each [rows, kv_heads, head_dim].
pub struct KvLayer {
    pub k: View,
    /// None: values are the first lanes of the keys (latent attention).
    pub v: Option<View>,
    /// Keys of a lightning indexer [positions, head size], see [`KvFormat::of_index`].
    pub index: Option<View>,
    pub format: KvFormat,
    /// Rows of a layer whose tokens see a window: position p lies in row p % rows. None: each position has a row of its own.
    pub ring: Option<usize>,
    /// Rows that it may come to have, where it has fewer so far. Work is cut as if it had them, so that what a step computes
    /// does not depend on how far the layer has grown.
    pub grows_to: Option<usize>,
}

impl KvLayer {
    /// Rows of `heads` heads of `dim` values.
    pub(crate) fn rows(&self, heads: usize, dim: usize) -> usize {
        self.ring.unwrap_or((self.k.size / self.format.row_bytes(heads, dim).max(1)) as usize)
    }

    /// What is wrong with such rows, for `tokens` tokens that write them before the first has read `window` positions.
    pub(super) fn refuses(&self, heads: usize, dim: usize, window: Option<usize>, tokens: usize) -> Option<String> {
        if !dim.is_multiple_of(self.format.block()) {
            return Some(format!("heads of {dim} values in blocks of {}", self.format.block()));
        }
        let rows = self.ring?;
        let bytes = (rows as u64).saturating_mul(self.format.row_bytes(heads, dim));
        let fits = std::iter::once(&self.k).chain(&self.v).all(|view| view.size >= bytes);
        let enough = window.is_some_and(|window| window.saturating_add(tokens) <= rows + 1);
        (!fits || !enough).then(|| {
            format!("a ring of {rows} rows in {} bytes, for {tokens} tokens that see {window:?} positions", self.k.size)
        })
    }
}

/// Of an operator that needs them.
pub(super) fn no_values(op: &'static str) -> Error {
    Error::Shape { op, message: "a cache without values of its own".into() }
}
