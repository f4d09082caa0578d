//! Shards of a stack of experts bound beside each other: one dispatch reads an expert in whichever of them it lies.

use super::{Shard, Stack, Step};
use crate::formats::Format;
use crate::gpu::{KernelSpec, View};

/// What `shaders/lib/weights.wgsl` names them.
const BINDINGS: [&str; 8] =
    ["weights", "weights_1", "weights_2", "weights_3", "weights_4", "weights_5", "weights_6", "weights_7"];
/// Kernels are made for one shard and for so many.
const COUNTS: [(usize, &str); 3] = [(2, "SHARDS_2"), (4, "SHARDS_4"), (8, "SHARDS_8")];

/// Shards of a stack, one after another, that one dispatch binds.
pub(super) struct Beside<'s> {
    shards: &'s [Shard],
    /// The number of the first.
    pub first: usize,
}

impl Beside<'_> {
    pub fn flags(&self, spec: KernelSpec) -> KernelSpec {
        beside_flags(spec, self.shards.len())
    }

    /// Their bindings; the last shard fills what a kernel has more.
    pub fn bind(&self) -> impl Iterator<Item = (&'static str, &View)> {
        let count = self.shards.len().next_power_of_two();
        (0..count).map(|i| (BINDINGS[i], &self.shards[i.min(self.shards.len() - 1)].view))
    }

    /// Experts that lie in them at once.
    pub fn slots(&self) -> usize {
        self.shards.iter().map(|shard| shard.count).sum()
    }
}

/// The variant of a kernel for so many shards.
pub(super) fn beside_flags(spec: KernelSpec, shards: usize) -> KernelSpec {
    COUNTS.iter().fold(spec, |spec, (count, flag)| spec.flag(flag, shards > count / 2))
}

/// How many shards of a stack a kernel binds that binds `others` storage buffers more, on a device whose kernels bind `buffers`.
pub fn shards_at_once(buffers: u32, format: Format, others: usize) -> usize {
    let room = (buffers as usize).saturating_sub(others + usize::from(format.codebook().is_some()));
    COUNTS.iter().map(|(count, _)| *count).filter(|count| *count <= room).max().unwrap_or(1)
}

impl Stack {
    /// Its shards, `most` at a time.
    pub(super) fn beside(&self, most: usize) -> impl Iterator<Item = Beside<'_>> {
        self.shards.chunks(most).enumerate().map(move |(i, shards)| Beside { shards, first: i * most })
    }
}

impl Step<'_> {
    /// How many shards of a stack a kernel binds that binds `others` storage buffers more.
    pub(super) fn shards_at_once(&self, stack: &Stack, others: usize) -> usize {
        shards_at_once(self.recorder.gpu().caps().storage_buffers, stack.format, others)
    }

    /// Whether one dispatch that binds `others` storage buffers more reads all experts of a stack, however many of them lie
    /// on the device: what is recorded must not depend on that.
    pub(super) fn in_one_dispatch(&self, stack: &Stack, others: usize) -> bool {
        let each = (self.recorder.gpu().caps().max_shard / stack.expert_bytes()).max(1) as usize;
        stack.experts.div_ceil(each).max(stack.shards.len()) <= self.shards_at_once(stack, others)
    }
}
