//! The store of weights that come and go. Where not all experts fit, there are slots for some, of each layer or for all layers, and
//! tables that the kernels read say which expert lies in which. A step that misses one halts; the host brings what the layer needs
//! and goes on from there. Dense layers that do not fit pass through it, too.

use super::budget::{ALIGNMENT, Backing, DenseMemory, layer_of};
use super::copies::{RowCopy, cut};
use super::filling::next_read;
use super::held::{Brought, Source};
use super::slots::{Slots, Slotted};
use super::stream::Stream;
use super::{Error, Result};
use crate::clock::{self, Instant};
use crate::gguf::Gguf;
use crate::gpu::{Gpu, View};
use crate::ops::{NOWHERE, Shard};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

/// What the store has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct StoreStats {
    /// Experts that a step needed in a layer and found in a slot.
    pub hits: u64,
    /// Experts that were in none.
    pub misses: u64,
    /// Bytes read for them.
    pub bytes: u64,
    /// Bytes read of dense layers that pass through.
    pub streamed: u64,
    /// How often a step stood still for experts.
    pub halts: u64,
    /// Time that steps stood still for it.
    #[serde(rename = "stall_seconds", serialize_with = "seconds")]
    pub stall: Duration,
}

fn seconds<S: serde::Serializer>(time: &Duration, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}

impl std::ops::Add for StoreStats {
    type Output = StoreStats;

    fn add(self, other: StoreStats) -> StoreStats {
        StoreStats {
            hits: self.hits + other.hits,
            misses: self.misses + other.misses,
            halts: self.halts + other.halts,
            bytes: self.bytes + other.bytes,
            streamed: self.streamed + other.streamed,
            stall: self.stall + other.stall,
        }
    }
}

impl std::ops::Sub for StoreStats {
    type Output = StoreStats;

    /// What was added since `before`.
    fn sub(self, before: StoreStats) -> StoreStats {
        StoreStats {
            hits: self.hits - before.hits,
            misses: self.misses - before.misses,
            bytes: self.bytes - before.bytes,
            streamed: self.streamed - before.streamed,
            halts: self.halts - before.halts,
            stall: self.stall - before.stall,
        }
    }
}

/// What a layer has of experts. Its slots are the same in each of its stacks.
struct Layer {
    /// Which of the store's slots are its own, or all layers'.
    pool: usize,
    stacks: Vec<Slotted>,
    /// u32 [experts]
    stamps: View,
    /// The stamps as they were told last.
    known: Vec<u32>,
}

/// A layer's expert.
type Resident = (u32, u32);

/// Slots that all layers share: whole ones in each shard.
struct Shared {
    shards: Vec<Shard>,
    slot: u64,
    /// Where in a slot the next stack of a layer goes.
    at: BTreeMap<u32, u64>,
}

/// Experts that come and go.
pub struct ExpertStore {
    gpu: Gpu,
    source: Source,
    layers: BTreeMap<u32, Layer>,
    /// What lies in each slot: of a layer's own, or of all layers' together.
    pools: Vec<Vec<Option<Resident>>>,
    shared: Option<Shared>,
    stream: Option<Stream>,
    /// The latest clock of any step.
    pub clock: u32,
    stats: StoreStats,
    /// So many have joined.
    sessions: u64,
    holder: Option<u64>,
    arrival: Option<Arrival>,
    /// The layer of which kernels do not see all experts that are there.
    partly_shown: Option<u32>,
}

/// Experts on their way into slots.
struct Arrival {
    placed: Vec<(u32, usize)>,
    jobs: Arc<Vec<RowCopy>>,
    arriving: Brought,
    start: Instant,
}

impl ExpertStore {
    pub(super) fn new(gpu: &Gpu, gguf: &Gguf) -> Self {
        ExpertStore {
            gpu: gpu.clone(),
            source: Source::new(gguf),
            layers: BTreeMap::new(),
            pools: Vec::new(),
            shared: None,
            stream: None,
            clock: 0,
            stats: StoreStats::default(),
            sessions: 0,
            holder: None,
            arrival: None,
            partly_shown: None,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.layers.is_empty() && !self.streams()
    }

    /// From here on some dense layers pass through.
    pub(super) fn set_stream(&mut self, memory: DenseMemory) {
        self.stream = Some(Stream::new(memory));
    }

    /// Reads into host memory what comes and goes, if `backing` says so; gives the bytes. `own`: the device has a memory of its own.
    ///
    /// # Errors
    /// Host memory that is asked for and not there; a read that fails.
    pub async fn hold_on_host(&mut self, backing: Backing, own: bool) -> Result<u64> {
        let expert = |stack: &Slotted, expert: usize| stack.copies(expert as u32, 0);
        let stacks = self.layers.values().flat_map(|layer| &layer.stacks);
        let mut copies: Vec<RowCopy> =
            stacks.flat_map(|stack| (0..stack.sources.len()).flat_map(move |e| expert(stack, e))).collect();
        copies.extend(self.stream.iter().flat_map(Stream::copies));
        let bytes = copies.iter().map(|copy| copy.laid_bytes() as u64).sum();
        if self.source.wanted(backing, bytes, own)? { self.source.hold(copies).await } else { Ok(0) }
    }

    /// Whether what comes and goes is kept in host memory.
    pub fn holds(&self) -> bool {
        self.source.holds()
    }

    /// Whether dense layers pass through.
    pub fn streams(&self) -> bool {
        self.stream.as_ref().is_some_and(|stream| !stream.is_empty())
    }

    pub(super) fn stream_mut(&mut self) -> Option<&mut Stream> {
        self.stream.as_mut()
    }

    /// The first pieces of the embedding and of the output matrix, if they pass through.
    pub(super) fn stages_of_ends(&self) -> Option<[u32; 2]> {
        self.stream.as_ref()?.stages_of_ends()
    }

    /// Where the matrices of a tensor's layer go, if it passes through.
    pub(super) fn stream_of(&mut self, name: &str) -> Option<(&mut Stream, u32)> {
        let layer = layer_of(name)?;
        self.stream.as_mut().filter(|stream| stream.memory.streams(layer)).map(|stream| (stream, layer))
    }

    /// Whether a dense layer is to be brought before the device computes it.
    pub fn lacks(&self, layer: u32) -> bool {
        self.stream.as_ref().is_some_and(|stream| stream.lacks(layer))
    }

    /// Brings a dense layer into its slot, as [`ExpertStore::bring`] does experts; and begins to read the one that comes next.
    ///
    /// # Errors
    /// A read that fails.
    pub fn bring_layer(&mut self, layer: u32, most: Option<u64>) -> Result<Poll<()>> {
        let stream = self.stream.as_mut().expect("a layer that is lacked passes through");
        let start = clock::now();
        let brought = stream.bring(&self.gpu, &self.source, layer, most, &mut self.stats.streamed)?;
        if brought.is_ready() {
            stream.prepare(&self.gpu, &self.source, layer);
        }
        self.stats.stall += start.elapsed();
        Ok(brought)
    }

    /// Slots of `expert_bytes` for a stack of a layer, within those of all layers: so many of `slot` bytes.
    pub(super) fn shared_slots(
        &mut self,
        name: &str,
        expert_bytes: u64,
        slots: usize,
        slot: u64,
        most_shards: usize,
    ) -> Result<Slots> {
        if self.shared.is_none() {
            let shard = |units: Range<usize>| -> Result<Shard> {
                let view = self.gpu.buffer("slots of experts", slot * units.len() as u64)?;
                Ok(Shard { view, first: units.start, count: units.len() })
            };
            let shards =
                cut(slots, slot, self.gpu.caps().max_shard).take(most_shards).map(shard).collect::<Result<_>>()?;
            self.shared = Some(Shared { shards, slot, at: BTreeMap::new() });
        }
        let layer = self.numbered(name)?;
        let shared = self.shared.as_mut().expect("just made");
        let at = shared.at.entry(layer).or_default();
        let within = |s: &Shard| Shard { view: s.view.slice(*at, s.view.size - *at), ..s.clone() };
        let slots = Slots { shards: shared.shards.iter().map(within).collect(), stride: shared.slot };
        *at = (*at + expert_bytes).next_multiple_of(ALIGNMENT);
        Ok(slots)
    }

    fn numbered(&self, name: &str) -> Result<u32> {
        layer_of(name).ok_or_else(|| Error::Unnumbered { file: self.source.gguf.name().into(), name: name.into() })
    }

    /// Adds a stack by its tensor's name, `blk.LAYER.…`; gives the stamps of the layer.
    pub(super) fn add(&mut self, name: &str, experts: usize, stack: Slotted) -> Result<View> {
        let layer = self.numbered(name)?;
        if !self.layers.contains_key(&layer) {
            let stamps = self.gpu.upload("expert stamps", &vec![0u32; experts])?;
            if self.shared.is_none() || self.pools.is_empty() {
                self.pools.push(vec![None; stack.slots()]);
            }
            let pool = self.pools.len() - 1;
            self.layers.insert(layer, Layer { pool, stacks: Vec::new(), stamps, known: vec![0; experts] });
        }
        let layer = self.layers.get_mut(&layer).expect("inserted");
        debug_assert_eq!(stack.slots(), self.pools[layer.pool].len(), "stacks of a layer have the same slots");
        layer.stacks.push(stack);
        Ok(layer.stamps.clone())
    }

    pub fn stats(&self) -> StoreStats {
        self.stats
    }

    /// A step has ended that began at `clock`, whose lookups found so many experts in their slots.
    pub fn saw(&mut self, clock: u32, found: u32) {
        self.clock = self.clock.max(clock);
        self.stats.hits += u64::from(found);
    }

    /// The experts that a step of a layer needs, in passes of no more than there are slots: those that are there first.
    pub fn passes(&self, layer: u32, needed: &[u32]) -> Vec<Vec<u32>> {
        let slots = &self.pools[self.layers[&layer].pool];
        let (mut order, absent): (Vec<u32>, Vec<u32>) =
            needed.iter().partition(|e| slots.contains(&Some((layer, **e))));
        order.extend(absent);
        order.chunks(slots.len()).map(<[u32]>::to_vec).collect()
    }

    /// A name for a session, by which it holds the store.
    pub fn join(&mut self) -> u64 {
        self.sessions += 1;
        self.sessions
    }

    /// Keeps tables and slots as they are for one session, until [`ExpertStore::release`]: those of a step of which a part is
    /// yet to be submitted, or whose experts come in passes. False where another session holds them.
    pub fn hold(&mut self, session: u64) -> bool {
        *self.holder.get_or_insert(session) == session
    }

    /// Ends a hold, and shows kernels all experts that are there.
    pub fn release(&mut self, session: u64) -> Result<()> {
        if self.holder != Some(session) {
            return Ok(());
        }
        (self.holder, self.arrival) = (None, None);
        match self.partly_shown.take() {
            Some(layer) => self.show(layer, |_| true),
            None => Ok(()),
        }
    }

    /// Brings experts of a layer, no more than it has slots, in place of those that were needed longest ago by `stamps`, and
    /// shows kernels no others until the store is released. Asked again with the same until they are there: each time it takes
    /// what has been read, up to about `most` bytes, or waits for all of it. The writes run before whatever is submitted next;
    /// nothing that runs now reads the slots, since it halted here. The session holds the store.
    ///
    /// # Errors
    /// A read that fails: the slots are empty then, the store is released, and the model can be used again.
    pub fn bring(&mut self, layer: u32, experts: &[u32], stamps: &[u32], most: Option<u64>) -> Result<Poll<()>> {
        let session = self.holder.expect("a session holds the store");
        self.partly_shown = Some(layer);
        let mut arrival = match self.arrival.take() {
            Some(arrival) => arrival,
            None => self.set_out(layer, experts, stamps)?,
        };
        match self.take_in(&mut arrival, most) {
            Ok(Poll::Ready(())) => {}
            Ok(Poll::Pending) => {
                self.arrival = Some(arrival);
                return Ok(Poll::Pending);
            }
            Err(error) => {
                self.release(session)?;
                return Err(error);
            }
        }
        let slots = &mut self.pools[self.layers[&layer].pool];
        arrival.placed.iter().for_each(|(expert, slot)| slots[*slot] = Some((layer, *expert)));
        self.show(layer, |expert| experts.contains(&expert))?;
        self.stats.hits += (experts.len() - arrival.placed.len()) as u64;
        self.stats.misses += arrival.placed.len() as u64;
        self.stats.halts += 1;
        self.stats.stall += arrival.start.elapsed();
        Ok(Poll::Ready(()))
    }

    /// Makes room for what is missing of a layer's experts, and starts reading it. What makes room is what will be needed last: of
    /// slots that layers share, experts of this layer that it does not need now, then those of the layers before it; of a layer,
    /// those that were needed longest ago.
    fn set_out(&mut self, layer: u32, experts: &[u32], stamps: &[u32]) -> Result<Arrival> {
        let l = self.layers.get_mut(&layer).expect("a layer with slots");
        let known = l.known.len();
        l.known.copy_from_slice(&stamps[..known]);
        let (l, slots) = (&self.layers[&layer], &mut self.pools[self.layers[&layer].pool]);
        let missing: Vec<u32> = experts.iter().copied().filter(|e| !slots.contains(&Some((layer, *e)))).collect();
        let wanted = |slot: &usize| slots[*slot].is_some_and(|(of, e)| of == layer && experts.contains(&e));
        let mut free: Vec<usize> = (0..slots.len()).filter(|slot| !wanted(slot)).collect();
        // Layers from this one on come next; then, in the next step, those before it and at last this one.
        let soon = |of: u32| (of <= layer, of);
        free.sort_by_key(|slot| slots[*slot].map(|(of, e)| (Reverse(soon(of)), self.layers[&of].known[e as usize])));
        let placed: Vec<(u32, usize)> = missing.into_iter().zip(free).collect();
        let (mut jobs, mut robbed) = (Vec::new(), BTreeSet::new());
        for (expert, slot) in &placed {
            robbed.extend(slots[*slot].take().map(|(of, _)| of).filter(|of| *of != layer));
            jobs.extend(l.stacks.iter().flat_map(|stack| stack.copies(*expert, *slot)));
        }
        robbed.into_iter().try_for_each(|of| self.show(of, |_| true))?;
        let jobs = Arc::new(jobs);
        Ok(Arrival { placed, arriving: self.source.read(&jobs), jobs, start: clock::now() })
    }

    /// Writes what has been read into its slots.
    fn take_in(&mut self, arrival: &mut Arrival, most: Option<u64>) -> Result<Poll<()>> {
        let Arrival { jobs, arriving, .. } = arrival;
        let mut taken = 0;
        while most.is_none_or(|most| taken < most) {
            let Poll::Ready(next) = next_read(arriving, &self.gpu, most.is_none()) else { break };
            let Some((index, laid)) = next else { return Ok(Poll::Ready(())) };
            let laid = laid?;
            self.gpu.write(&jobs[index].view, jobs[index].to, &laid)?;
            taken += laid.len() as u64;
            self.source.give_back(laid);
            self.stats.bytes += jobs[index].bytes() as u64;
        }
        Ok(Poll::Pending)
    }

    /// Takes all experts out of their slots.
    pub fn evict(&mut self) -> Result<()> {
        self.pools.iter_mut().for_each(|slots| slots.fill(None));
        self.layers.keys().try_for_each(|layer| self.show(*layer, |_| true))
    }

    /// Writes a layer's tables: of the experts in slots, those that `shown` takes.
    fn show(&self, layer: u32, shown: impl Fn(u32) -> bool) -> Result<()> {
        let l = &self.layers[&layer];
        for stack in &l.stacks {
            let mut table = vec![[NOWHERE, 0]; stack.sources.len()];
            for (slot, resident) in self.pools[l.pool].iter().enumerate() {
                if let Some((_, expert)) = resident.filter(|(of, e)| *of == layer && shown(*e)) {
                    table[expert as usize] = stack.place(slot);
                }
            }
            self.gpu.write(&stack.table, 0, bytemuck::cast_slice(&table))?;
        }
        Ok(())
    }
}
