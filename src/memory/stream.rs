//! Dense layers that do not fit pass through two slots in their order: one is read while the other computes. So do pieces of the
//! output matrix, which follow the layers, and of the embedding, which follow those and precede the layers of the next step.

use super::Result;
use super::budget::{ALIGNMENT, DenseMemory};
use super::copies::RowCopy;
use super::filling::next_read;
use super::held::{Brought, Source};
use crate::gpu::{Gpu, View};
use futures::{StreamExt, stream};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::Poll;

/// More than there are pieces of an output matrix; even.
const MOST_PIECES: u32 = 1 << 24;

/// The layers that pass through, and where.
pub(super) struct Stream {
    pub memory: DenseMemory,
    layers: BTreeMap<u32, Layer>,
    slots: [Slot; 2],
    /// A layer on its way.
    arrival: Option<(u32, Brought)>,
}

/// What a layer is made of.
#[derive(Default)]
struct Layer {
    copies: Arc<Vec<RowCopy>>,
    /// The buffer of its slot and the byte in it where the next of its shards goes.
    at: (usize, u64),
}

/// Room for a layer.
#[derive(Default)]
struct Slot {
    buffers: Vec<View>,
    holds: Option<u32>,
}

impl Stream {
    pub fn new(memory: DenseMemory) -> Stream {
        Stream { memory, layers: BTreeMap::new(), slots: Default::default(), arrival: None }
    }

    pub fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    fn slot(&self, layer: u32) -> usize {
        match layer.checked_sub(self.memory.first + self.memory.layers) {
            Some(piece) => piece as usize % 2,
            None => self.memory.rank(layer) % 2,
        }
    }

    /// The numbers of the first pieces of the embedding and of the output matrix, where they pass through.
    pub fn stages_of_ends(&self) -> Option<[u32; 2]> {
        let output = self.memory.first + self.memory.layers;
        (self.memory.pieces > 0).then_some([output + MOST_PIECES, output])
    }

    /// Room for a shard of a layer's matrix.
    pub fn place(&mut self, gpu: &Gpu, layer: u32, bytes: u64) -> Result<View> {
        let slot = self.slot(layer);
        let (buffers, l) = (&mut self.slots[slot].buffers, self.layers.entry(layer).or_default());
        loop {
            let (index, at) = l.at;
            match buffers.get(index) {
                Some(buffer) if at + bytes <= buffer.size => {
                    l.at.1 = (at + bytes).next_multiple_of(ALIGNMENT);
                    return Ok(buffer.slice(at, bytes));
                }
                Some(_) => l.at = (index + 1, 0),
                None => {
                    let there: u64 = buffers.iter().map(|buffer| buffer.size).sum();
                    let rest = self.memory.slot.saturating_sub(there).min(gpu.caps().max_shard);
                    buffers.push(gpu.buffer("slot of dense layers", rest.max(bytes))?);
                }
            }
        }
    }

    /// What is to be brought for a layer whenever it passes through.
    pub fn add(&mut self, layer: u32, copies: Vec<RowCopy>) {
        let all = &mut self.layers.entry(layer).or_default().copies;
        Arc::get_mut(all).expect("nothing is read yet").extend(copies);
    }

    /// All that is ever brought.
    pub fn copies(&self) -> impl Iterator<Item = RowCopy> {
        self.layers.values().flat_map(|layer| layer.copies.iter().cloned())
    }

    /// Whether a layer passes through, and is not in its slot.
    pub fn lacks(&self, layer: u32) -> bool {
        self.layers.contains_key(&layer) && self.slots[self.slot(layer)].holds != Some(layer)
    }

    /// Begins to read the layer that passes through after another, or first.
    pub fn prepare(&mut self, gpu: &Gpu, source: &Source, after: u32) {
        let next = self.layers.range(after + 1..).next().or_else(|| self.layers.iter().next());
        if let Some((&layer, l)) = next.filter(|(layer, _)| self.lacks(**layer) && self.arrival.is_none()) {
            let mut reads = source.read(&l.copies);
            // A stream does nothing until somebody looks.
            if let Poll::Ready(Some(first)) = next_read(&mut reads, gpu, false) {
                reads = Box::pin(stream::iter([first]).chain(reads));
            }
            self.arrival = Some((layer, reads));
        }
    }

    /// Brings a layer into its slot. Asked again until it is there: each time it takes what has been read, up to about `most` bytes,
    /// or waits for all of it; adds what it took to `bytes`. The writes run before whatever is submitted next, and after what was
    /// submitted before.
    ///
    /// # Errors
    /// A read that fails: the slot is empty then.
    pub fn bring(
        &mut self,
        gpu: &Gpu,
        source: &Source,
        layer: u32,
        most: Option<u64>,
        bytes: &mut u64,
    ) -> Result<Poll<()>> {
        let slot = self.slot(layer);
        let copies = self.layers.get(&layer).map(|l| l.copies.clone()).expect("a layer that passes through");
        self.slots[slot].holds = None;
        let (_, mut reads) = match self.arrival.take().filter(|(coming, _)| *coming == layer) {
            Some(arrival) => arrival,
            None => (layer, source.read(&copies)),
        };
        let mut taken = 0;
        while most.is_none_or(|most| taken < most) {
            let Poll::Ready(next) = next_read(&mut reads, gpu, most.is_none()) else { break };
            let Some((index, laid)) = next else {
                self.slots[slot].holds = Some(layer);
                return Ok(Poll::Ready(()));
            };
            let (copy, laid) = (&copies[index], laid?);
            gpu.write(&copy.view, copy.to, &laid)?;
            taken += laid.len() as u64;
            source.give_back(laid);
            *bytes += copy.bytes() as u64;
        }
        self.arrival = Some((layer, reads));
        Ok(Poll::Pending)
    }
}
