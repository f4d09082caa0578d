//! The expert store. Where not all experts fit, each layer has slots for some, and a table that the kernels read says which
//! expert lies in which. A step that misses one halts; the host brings what the layer needs and goes on from there.

use super::filling::{Reads, RowCopy, Rows, copies, read};
use super::{Error, Result};
use crate::formats::Format;
use crate::gguf::{Gguf, TensorInfo};
use crate::gpu::{Gpu, View};
use crate::ops::{NOWHERE, Shard};
use futures::{FutureExt, StreamExt};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

/// How much of the experts may lie on the device.
#[derive(Clone, Copy, Debug)]
pub struct ExpertMemory {
    /// Bytes of the slots of all layers.
    pub bytes: u64,
    /// Bytes of all experts.
    pub all: u64,
}

/// What the store has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct StoreStats {
    /// Experts that a step needed in a layer and found in a slot.
    pub hits: u64,
    /// Experts that were in none.
    pub misses: u64,
    /// Bytes read from the file for them.
    pub bytes: u64,
    /// Time that steps stood still for it.
    #[serde(rename = "stall_seconds", serialize_with = "seconds")]
    pub stall: Duration,
}

fn seconds<S: serde::Serializer>(time: &Duration, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}

impl std::ops::Sub for StoreStats {
    type Output = StoreStats;

    /// What was added since `before`.
    fn sub(self, before: StoreStats) -> StoreStats {
        StoreStats {
            hits: self.hits - before.hits,
            misses: self.misses - before.misses,
            bytes: self.bytes - before.bytes,
            stall: self.stall - before.stall,
        }
    }
}

/// The experts of one stack, and its slots.
pub(super) struct Slotted {
    format: Format,
    columns: usize,
    /// Rows of an expert.
    rows: usize,
    /// Where each expert lies in the file.
    sources: Vec<Vec<Rows>>,
    shards: Vec<Shard>,
    table: View,
}

/// One layer's slots, the same in each of its stacks.
struct Layer {
    /// The expert in each slot.
    slots: Vec<Option<u32>>,
    stacks: Vec<Slotted>,
    /// u32 [experts]
    stamps: View,
}

/// Experts that come and go.
pub struct ExpertStore {
    gpu: Gpu,
    gguf: Gguf,
    layers: BTreeMap<u32, Layer>,
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
    arriving: Reads,
    start: Instant,
}

/// The stacks of routed experts of a file.
pub fn expert_stacks(gguf: &Gguf) -> impl Iterator<Item = &TensorInfo> {
    gguf.tensors().iter().filter(|tensor| tensor.name.ends_with("_exps.weight"))
}

/// Bytes that the routed experts of a file take on a device.
pub fn expert_bytes(gguf: &Gguf) -> u64 {
    let bytes = |tensor: &TensorInfo| {
        let format = Format::from_ggml(tensor.ggml_type)?;
        let rows: u64 = tensor.dims[1..].iter().product();
        Some(format.device_row_bytes(tensor.dims[0] as usize) as u64 * rows)
    };
    expert_stacks(gguf).filter_map(bytes).sum()
}

impl ExpertMemory {
    /// `bytes` for the experts of a file; `None` where all of them fit.
    ///
    /// # Errors
    /// Less than the experts of one token.
    pub fn within(gguf: &Gguf, bytes: u64) -> Result<Option<ExpertMemory>> {
        let all = expert_bytes(gguf);
        if bytes >= all {
            return Ok(None);
        }
        let memory = ExpertMemory { bytes, all };
        let used = gguf.metadata().u64(&format!("{}.expert_used_count", gguf.architecture()?))?.unwrap_or(0);
        let experts = expert_stacks(gguf).filter_map(|tensor| tensor.dims.get(2)).max().copied().unwrap_or(1);
        // A shared expert may lie in a slot of its own.
        let shared = u64::from(gguf.tensors().iter().any(|tensor| tensor.name.ends_with("_shexp.weight")));
        let (used, experts) = (used + shared, experts + shared);
        if (memory.slots(experts as usize) as u64) < used {
            // The last byte of a share is lost to rounding.
            let least = (u128::from(all) * u128::from(used)).div_ceil(u128::from(experts)) as u64;
            return Err(Error::FewExperts { file: gguf.name().into(), bytes, least, used });
        }
        Ok(Some(memory))
    }

    /// Slots of a layer that has so many experts: its share of the memory.
    pub fn slots(&self, experts: usize) -> usize {
        let share = experts as u128 * u128::from(self.bytes) / u128::from(self.all.max(1));
        (share as usize).clamp(1, experts)
    }
}

impl Slotted {
    /// A stack whose experts have `rows` rows each, `parts` one after another.
    pub fn new(format: Format, columns: usize, rows: usize, parts: &[Rows], shards: &[Shard], table: &View) -> Self {
        let mut sources = Vec::new();
        let (mut expert, mut filled) = (Vec::new(), 0);
        for part in parts {
            let mut done = 0;
            while done < part.count {
                let count = (rows - filled).min(part.count - done);
                expert.push(Rows { tensor: part.tensor.clone(), first: part.first + done, count });
                (done, filled) = (done + count, filled + count);
                if filled == rows {
                    sources.push(std::mem::take(&mut expert));
                    filled = 0;
                }
            }
        }
        Slotted { format, columns, rows, sources, shards: shards.to_vec(), table: table.clone() }
    }

    fn slots(&self) -> usize {
        self.shards.iter().map(|shard| shard.count).sum()
    }

    /// The table's entry of an expert that lies in `slot`.
    fn place(&self, slot: usize) -> [u32; 2] {
        let per_shard = self.shards[0].count;
        [(slot / per_shard) as u32, (slot % per_shard) as u32]
    }
}

impl ExpertStore {
    pub(super) fn new(gpu: &Gpu, gguf: &Gguf) -> Self {
        ExpertStore {
            gpu: gpu.clone(),
            gguf: gguf.clone(),
            layers: BTreeMap::new(),
            clock: 0,
            stats: StoreStats::default(),
            sessions: 0,
            holder: None,
            arrival: None,
            partly_shown: None,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    /// Adds a stack by its tensor's name, `blk.LAYER.…`; gives the stamps of the layer.
    pub(super) fn add(&mut self, name: &str, experts: usize, stack: Slotted) -> Result<View> {
        let layer = name.split('.').nth(1).and_then(|n| n.parse().ok());
        let unnumbered = || Error::Unnumbered { file: self.gguf.name().into(), name: name.into() };
        let layer = layer.ok_or_else(unnumbered)?;
        if !self.layers.contains_key(&layer) {
            let stamps = self.gpu.upload("expert stamps", &vec![0u32; experts])?;
            self.layers.insert(layer, Layer { slots: vec![None; stack.slots()], stacks: Vec::new(), stamps });
        }
        let layer = self.layers.get_mut(&layer).expect("inserted");
        debug_assert_eq!(stack.slots(), layer.slots.len(), "stacks of a layer have the same slots");
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
        let slots = &self.layers[&layer].slots;
        let (mut order, absent): (Vec<u32>, Vec<u32>) = needed.iter().partition(|e| slots.contains(&Some(**e)));
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
            None => self.set_out(layer, experts, stamps),
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
        let l = self.layers.get_mut(&layer).expect("a layer with slots");
        arrival.placed.iter().for_each(|(expert, slot)| l.slots[*slot] = Some(*expert));
        self.show(layer, |expert| experts.contains(&expert))?;
        self.stats.hits += (experts.len() - arrival.placed.len()) as u64;
        self.stats.misses += arrival.placed.len() as u64;
        self.stats.stall += arrival.start.elapsed();
        Ok(Poll::Ready(()))
    }

    /// Makes room for what is missing of a layer's experts, and starts reading it.
    fn set_out(&mut self, layer: u32, experts: &[u32], stamps: &[u32]) -> Arrival {
        let l = self.layers.get_mut(&layer).expect("a layer with slots");
        let missing = experts.iter().copied().filter(|e| !l.slots.contains(&Some(*e)));
        let wanted = |slot: &usize| l.slots[*slot].is_some_and(|e| experts.contains(&e));
        let mut free: Vec<usize> = (0..l.slots.len()).filter(|slot| !wanted(slot)).collect();
        free.sort_by_key(|slot| l.slots[*slot].map(|e| stamps[e as usize]));
        let placed: Vec<(u32, usize)> = missing.zip(free).collect();
        let mut jobs = Vec::new();
        for (expert, slot) in &placed {
            l.slots[*slot] = None;
            for s in &l.stacks {
                let source = &s.sources[*expert as usize];
                jobs.extend(copies(source, &s.shards, slot * s.rows, s.rows, s.format, s.columns));
            }
        }
        let jobs = Arc::new(jobs);
        Arrival { placed, arriving: read(&self.gguf, &jobs, &Arc::default()), jobs, start: Instant::now() }
    }

    /// Writes what has been read into its slots.
    fn take_in(&mut self, arrival: &mut Arrival, most: Option<u64>) -> Result<Poll<()>> {
        let Arrival { jobs, arriving, .. } = arrival;
        let mut taken = 0;
        while most.is_none_or(|most| taken <= most) {
            let next = match most {
                None => Some(pollster::block_on(arriving.next())),
                Some(_) => arriving.next().now_or_never(),
            };
            let Some(next) = next else { break };
            let Some((index, laid)) = next else { return Ok(Poll::Ready(())) };
            let laid = laid?;
            self.gpu.write(&jobs[index].view, jobs[index].to, &laid)?;
            taken += laid.len() as u64;
            self.stats.bytes += jobs[index].bytes() as u64;
        }
        Ok(Poll::Pending)
    }

    /// Takes all experts out of their slots.
    pub fn evict(&mut self) -> Result<()> {
        self.layers.values_mut().for_each(|layer| layer.slots.fill(None));
        self.layers.keys().try_for_each(|layer| self.show(*layer, |_| true))
    }

    /// Writes a layer's tables: of the experts in slots, those that `shown` takes.
    fn show(&self, layer: u32, shown: impl Fn(u32) -> bool) -> Result<()> {
        let l = &self.layers[&layer];
        for stack in &l.stacks {
            let mut table = vec![[NOWHERE, 0]; stack.sources.len()];
            for (slot, expert) in l.slots.iter().enumerate() {
                if let Some(expert) = expert.filter(|e| shown(*e)) {
                    table[expert as usize] = stack.place(slot);
                }
            }
            self.gpu.write(&stack.table, 0, bytemuck::cast_slice(&table))?;
        }
        Ok(())
    }
}
