//! What a session has on one device: what the model's layers there keep, and recordings by length. Most models lie on one; where
//! layers lie on several, a step passes from one to the next.

use super::ahead::Ahead;
use super::model::Part;
use super::state::State;
use super::{Model, Result, SessionOptions};
use crate::gpu::{Gpu, KernelSpec, Pace, Recording, Tier, View};
use crate::memory::{Extent, KvCache};
use crate::ops::{Record, SampleBuffers, Scratch, Step, Tensor, sample_bytes};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

/// What a recorded step ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Ending {
    /// Keys and values only.
    Nothing,
    /// The next token.
    Sample,
    /// Logits of every token.
    Logits,
}

/// Tokens of a step, and how it ends.
pub(super) type Key = (usize, Ending);

pub(super) struct Recorded {
    pub recording: Recording,
    pub logits: Option<View>,
    /// What layers hand on, of so many tokens: it comes from the device before and goes to the one after.
    pub crossing: Vec<View>,
    /// When it was asked for last, counted in [`Stage::asked`].
    used: u64,
}

/// A device's part of a session.
pub(super) struct Stage {
    pub model: Arc<Model>,
    /// Which of the model's parts.
    index: usize,
    tier: Tier,
    pub options: Arc<SessionOptions>,
    pub submit: Duration,
    pub pace: Pace,
    pub ahead: Ahead,
    /// By which it holds the store of experts that come and go.
    pub id: u64,
    pub cache: KvCache,
    pub scratch: Scratch,
    pub state: View,
    /// What comes back after each step: the state, and of models whose experts come and go the record of misses behind it.
    pub report: View,
    /// What the last record said of experts found.
    pub found: u32,
    pub token_ids: View,
    /// Where the last layers lie.
    sample: Option<SampleBuffers>,
    ropes: Vec<View>,
    /// Positions that the rope tables hold so far.
    rope_filled: usize,
    pub recordings: HashMap<Key, Recorded>,
    /// How often a recording was asked for.
    asked: u64,
}

/// Where the record of misses lies in a report: bindings start at multiples of 256.
pub(super) const RECORD_OFFSET: u64 = 256;
/// Recordings that a session keeps: prompts end in chunks of any length, and each length has its own.
const MAX_RECORDINGS: usize = 16;
/// Positions by which the rope table grows: a step of the host that no frame notices.
const ROPE_STEP: usize = 256;

impl Stage {
    /// Without kernels and recordings.
    pub fn new(
        model: &Arc<Model>,
        index: usize,
        tier: Tier,
        chunk: usize,
        extent: Extent,
        options: &Arc<SessionOptions>,
    ) -> Result<Stage> {
        let (part, shape, context) = (&model.parts[index], model.shape(), extent.positions);
        let gpu = &part.gpu;
        let cache = KvCache::new(gpu, &shape.keeps, &part.span, extent, options.room, options.kv)?;
        let usage = wgpu::BufferUsages::UNIFORM
            | wgpu::BufferUsages::STORAGE
            | wgpu::BufferUsages::COPY_DST
            | wgpu::BufferUsages::COPY_SRC;
        let report = match part.weights_move() {
            true => RECORD_OFFSET + size_of::<Record>() as u64,
            false => size_of::<State>() as u64,
        };
        let report = gpu.buffer_with("state", report, usage)?;
        let limits = options.limits_of(index).unwrap_or_else(|| gpu.assumed_limits());
        let ropes = part.architecture.ropes().iter();
        let ropes = ropes.map(|rope| gpu.buffer("rope", context as u64 * 8 * rope.frequencies.len() as u64));
        Ok(Stage {
            model: model.clone(),
            index,
            tier,
            submit: options.submit_on(gpu),
            pace: Pace::new(limits),
            id: if part.weights_move() { part.store().join() } else { 0 },
            options: options.clone(),
            scratch: Scratch::new(chunk),
            state: report.slice(0, size_of::<State>() as u64),
            report,
            ahead: Ahead::new(limits.dispatch_seconds),
            found: 0,
            // One more than the context: the last token is sampled, never processed.
            token_ids: gpu.buffer("token ids", (context as u64 + 1) * 4)?,
            sample: part.span.is_last().then(|| SampleBuffers::new(gpu, shape.vocabulary)).transpose()?,
            ropes: ropes.collect::<std::result::Result<_, _>>()?,
            rope_filled: 0,
            recordings: HashMap::new(),
            asked: 0,
            cache,
        })
    }

    pub fn part(&self) -> &Part {
        &self.model.parts[self.index]
    }

    pub fn gpu(&self) -> &Gpu {
        &self.part().gpu
    }

    /// Whether the last layers lie here.
    pub fn is_last(&self) -> bool {
        self.part().span.is_last()
    }

    /// Bytes of its buffers, the recordings' parameters apart.
    pub fn bytes(&self) -> u64 {
        let sampling = self.sample.as_ref().map_or(0, |_| sample_bytes(self.model.shape().vocabulary));
        self.cache.total_bytes()
            + self.scratch.total_bytes()
            + self.ropes.iter().map(|r| r.size).sum::<u64>()
            + self.token_ids.size
            + self.report.size
            + sampling
    }

    pub fn write_state(&self, state: &State) -> Result<()> {
        Ok(self.gpu().write(&self.state, 0, bytemuck::bytes_of(state))?)
    }

    /// Lets go on what has halted for want of an expert.
    pub fn clear_halt(&self) -> Result<()> {
        Ok(self.gpu().write(&self.state, 0, bytemuck::bytes_of(&0u32))?)
    }

    /// Token ids from a position on.
    pub fn write_tokens(&self, position: usize, ids: &[u32]) -> Result<()> {
        Ok(self.gpu().write(&self.token_ids, 4 * position as u64, bytemuck::cast_slice(ids))?)
    }

    /// How a step is recorded here: it ends where the last layers lie.
    pub fn key(&self, key: Key) -> Key {
        if self.is_last() { key } else { (key.0, Ending::Nothing) }
    }

    /// A step that was recorded: [`Stage::record`].
    pub fn recorded(&self, key: Key) -> &Recorded {
        &self.recordings[&self.key(key)]
    }

    pub fn recording(&self, key: Key) -> &Recording {
        &self.recorded(key).recording
    }

    /// The kernels of a step of `tokens` tokens that samples.
    pub fn survey(&mut self, tokens: usize) -> Result<BTreeSet<KernelSpec>> {
        Ok(self.step(tokens, Ending::Sample, |step| step.survey())?.0.surveyed())
    }

    pub fn record(&mut self, key: Key) -> Result<()> {
        self.asked += 1;
        let own = self.key(key);
        if let Some(recorded) = self.recordings.get_mut(&own) {
            recorded.used = self.asked;
            return Ok(());
        }
        if self.recordings.len() >= MAX_RECORDINGS {
            self.forget_a_recording();
        }
        let (step, logits) = self.step(own.0, own.1, |step| step)?;
        let recording = step.finish()?;
        let names = self.part().architecture.hands_on();
        let crossing = names.iter().filter_map(|name| self.scratch.rows(name, own.0)).collect();
        self.recordings.insert(own, Recorded { recording, logits, crossing, used: self.asked });
        Ok(())
    }

    /// Drops the recording that was asked for the longest ago; that of decode stays.
    fn forget_a_recording(&mut self) {
        let decode = self.key((1, Ending::Sample));
        let others = self.recordings.iter().filter(|(key, _)| **key != decode);
        if let Some(oldest) = others.min_by_key(|(_, recorded)| recorded.used).map(|(key, _)| *key) {
            self.recordings.remove(&oldest);
        }
    }

    /// A decode step recorded anew, for measurements.
    pub fn record_decode(&mut self) -> Result<Recording> {
        Ok(self.step(1, Ending::Sample, |step| step)?.0.finish()?)
    }

    /// The layers here of a step, and its logits where it ends with those of every token.
    fn step(
        &mut self,
        tokens: usize,
        ending: Ending,
        prepare: impl for<'a> FnOnce(Step<'a>) -> Step<'a>,
    ) -> Result<(Step<'_>, Option<View>)> {
        let part = &self.model.parts[self.index];
        let architecture = &part.architecture;
        let step = Step::new(&part.gpu, self.tier, tokens, &self.state, &self.token_ids, &mut self.scratch)?;
        let mut step = prepare(step);
        step.only(part.span.range());
        if part.weights_move() {
            step.set_record(self.report.slice(RECORD_OFFSET, size_of::<Record>() as u64));
        }
        self.options.limits_of(self.index).into_iter().for_each(|profile| step.set_profile(profile));
        self.options.force.into_iter().for_each(|arithmetic| step.force(arithmetic));
        let x = architecture.forward(&mut step, &self.cache, &self.ropes)?;
        let (norm, output) = architecture.head();
        step.enter_layer(self.cache.layers.len());
        let Some(sample) = &self.sample else { return Ok((step, None)) };
        let (name, x) = match ending {
            Ending::Nothing => return Ok((step, None)),
            Ending::Sample => ("logits", Tensor { first_row: tokens - 1, rows: 1, ..x }),
            Ending::Logits => ("all logits", x),
        };
        let logits = step.norm_linear(name, &x, norm, output)?;
        if let Some(cap) = architecture.logit_cap() {
            step.softcap(&logits, cap)?;
        }
        if ending == Ending::Logits {
            return Ok((step, Some(logits.view)));
        }
        step.sample(&logits, sample)?;
        Ok((step, None))
    }

    /// Makes room in the cache for positions below `end`, and records the decode step anew where its buffers are others then;
    /// other recordings are made when they are asked for. It may `wait` for the device to let go of memory; whether there is room now.
    pub fn make_room(&mut self, end: usize, wait: bool) -> Result<bool> {
        if end.min(self.cache.positions) <= self.cache.room() {
            return Ok(true);
        }
        if !wait && self.cache.waits() {
            return Ok(false);
        }
        // They hold the old buffers.
        self.recordings.clear();
        let gpu = self.gpu().clone();
        let grown = self.cache.grow(&gpu, end, wait);
        self.record((1, Ending::Sample))?;
        Ok(grown?)
    }

    /// Fills the rope tables for positions below `end`.
    pub fn fill_rope(&mut self, end: usize) -> Result<()> {
        let end = end.next_multiple_of(ROPE_STEP).min(self.cache.positions);
        if end > self.rope_filled {
            let part = &self.model.parts[self.index];
            for (rope, view) in part.architecture.ropes().iter().zip(&self.ropes) {
                let bytes = rope.frequencies.len() as u64 * 8;
                let table = rope.table(self.rope_filled..end);
                part.gpu.write(view, self.rope_filled as u64 * bytes, bytemuck::cast_slice(&table))?;
            }
            self.rope_filled = end;
        }
        Ok(())
    }
}
