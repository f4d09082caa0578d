//! The engine of a session: buffers, recordings by length, and what runs on them.

use super::ahead::Misses;
use super::generate::{Answer, MOST_AHEAD};
use super::history::History;
use super::state::State;
use super::{Error, MAX_CONTEXT, Model, Result, SessionOptions};
use crate::gpu::{DeviceProfile, Gpu, GpuUse, KernelSpec, Pace, Recording, Tier, View};
use crate::memory::{Extent, KvCache, Needs};
use crate::ops::{Arithmetic, Ground, Record, SampleBuffers, Scratch, Step, Tensor, sample_bytes};
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

pub(super) struct Recorded {
    pub recording: Recording,
    pub logits: Option<View>,
    /// When it was asked for last, counted in [`Session::asked`].
    used: u64,
}

/// A conversation on a model. It owns its cache and scratch memory; several may run on one device.
pub struct Session {
    model: Arc<Model>,
    tier: Tier,
    chunk: usize,
    pub(super) submit: Duration,
    pub(super) pace: Pace,
    pub(super) misses: Misses,
    /// By which it holds the store of experts that come and go.
    pub(super) id: u64,
    /// Of the choice of arithmetic.
    measured: Option<DeviceProfile>,
    force: Option<Arithmetic>,
    pub(super) run_ahead: Option<usize>,
    pub(super) cache: KvCache,
    pub(super) scratch: Scratch,
    pub(super) state: View,
    /// What comes back after each step: the state, and of models whose experts come and go the record of misses behind it.
    pub(super) report: View,
    /// What the last record said of experts found.
    pub(super) found: u32,
    pub(super) token_ids: View,
    sample: SampleBuffers,
    ropes: Vec<View>,
    /// Positions that the rope tables hold so far.
    rope_filled: usize,
    pub(super) recordings: HashMap<(usize, Ending), Recorded>,
    /// How often a recording was asked for.
    asked: u64,
    pub(super) history: History,
    /// The answer that is being generated, or was last.
    pub(super) answer: Option<Answer>,
}

/// Where the record of misses lies in a report: bindings start at multiples of 256.
pub(super) const RECORD_OFFSET: u64 = 256;
/// Most tokens of a step: the default limit of workgroups a dimension, which holds them.
const MAX_CHUNK: usize = 65_535;
/// Recordings that a session keeps: prompts end in chunks of any length, and each length has its own.
const MAX_RECORDINGS: usize = 16;
/// Positions by which the rope table grows: a step of the host that no frame notices.
const ROPE_STEP: usize = 256;

impl Session {
    /// Bytes that a session with these options takes beside the weights.
    pub fn needs(shape: &crate::models::Shape, options: &SessionOptions) -> Needs {
        let context = Self::context_of(shape, options);
        let extent = Self::extent(context, options);
        let chunk = Self::chunk_of(context, options) as u64;
        // Each position has its place in the rope tables and its token id.
        let positions = (context as u64).saturating_mul(8 * shape.rope_pairs as u64 + 4);
        let sampling = 4 * shape.vocabulary as u64 + sample_bytes(shape.vocabulary);
        let (tier, profile, force) = (options.tier.unwrap_or(Tier::Matrix), options.limits, options.force);
        let rounded = if (Ground { tier, profile, force }).rounds() { shape.rounded_per_token } else { 0 };
        Needs {
            weights: 0,
            kv: KvCache::bytes(&shape.keeps, extent, options.kv).saturating_add(KvCache::growth_bytes(
                &shape.keeps,
                extent,
                options.room,
                options.kv,
            )),
            scratch: (shape.scratch_per_token + rounded)
                .saturating_mul(chunk)
                .saturating_add(shape.sliced.bytes(chunk as usize))
                .saturating_add(shape.score_bytes(context, chunk as usize))
                .saturating_add(positions)
                .saturating_add(sampling),
            checkpoints: Self::checkpoint_bytes(shape, options, extent),
            context,
        }
    }

    /// Host memory that the checkpoints of a whole context take: one an interval, and those of the last turn.
    fn checkpoint_bytes(shape: &crate::models::Shape, options: &SessionOptions, extent: Extent) -> u64 {
        let states = KvCache::state_bytes(&shape.keeps, extent, options.kv);
        let most = (extent.positions / options.checkpoints.interval.max(1)) as u64 + 2;
        states.saturating_mul(most).min(options.checkpoints.bytes)
    }

    fn context_of(shape: &crate::models::Shape, options: &SessionOptions) -> usize {
        options.context.unwrap_or(shape.context.min(8192))
    }

    /// Beyond a window a layer keeps a chunk, and what may be queued ahead.
    fn extent(context: usize, options: &SessionOptions) -> Extent {
        let ahead = options.run_ahead.unwrap_or(MOST_AHEAD).saturating_add(1);
        Extent { positions: context, beyond: Self::chunk_of(context, options).saturating_add(ahead) }
    }

    fn chunk_of(context: usize, options: &SessionOptions) -> usize {
        options.chunk.min(MAX_CHUNK).min(context).max(1)
    }

    /// A session with an empty cache, all of whose kernels are compiled: [`Model::warm_up`] in one go.
    ///
    /// # Errors
    /// A tier that the device lacks, a context of 0, or no memory for the cache.
    pub fn new(model: &Arc<Model>, options: &SessionOptions) -> Result<Session> {
        model.warm_up(options)?.finish()
    }

    /// A session without kernels and recordings.
    pub(super) fn bare(model: &Arc<Model>, options: &SessionOptions) -> Result<Session> {
        let gpu = &model.gpu;
        let tier = options.tier.unwrap_or(gpu.caps().tier);
        gpu.require(tier)?;
        let shape = model.shape();
        let context = Self::context_of(shape, options);
        if !(1..=MAX_CONTEXT).contains(&context) {
            return Err(Error::Context { context });
        }
        Session::needs(shape, options).check(gpu)?;
        let chunk = Self::chunk_of(context, options);
        let cache = KvCache::new(gpu, &shape.keeps, Self::extent(context, options), options.room, options.kv)?;
        let usage = wgpu::BufferUsages::UNIFORM
            | wgpu::BufferUsages::STORAGE
            | wgpu::BufferUsages::COPY_DST
            | wgpu::BufferUsages::COPY_SRC;
        let report = match model.weights_move() {
            true => RECORD_OFFSET + size_of::<Record>() as u64,
            false => size_of::<State>() as u64,
        };
        let report = gpu.buffer_with("state", report, usage)?;
        Ok(Session {
            model: model.clone(),
            tier,
            chunk,
            submit: options.submit_on(gpu),
            pace: Pace::new(options.limits.unwrap_or_else(|| gpu.assumed_limits())),
            id: if model.weights_move() { model.store().join() } else { 0 },
            measured: options.limits,
            force: options.force,
            run_ahead: options.run_ahead,
            scratch: Scratch::new(chunk),
            state: report.slice(0, size_of::<State>() as u64),
            report,
            misses: Misses::new(),
            found: 0,
            // One more than the context: the last token is sampled, never processed.
            token_ids: gpu.buffer("token ids", (context as u64 + 1) * 4)?,
            sample: SampleBuffers::new(gpu, shape.vocabulary)?,
            ropes: model
                .architecture
                .ropes()
                .iter()
                .map(|rope| gpu.buffer("rope", context as u64 * 8 * rope.frequencies.len() as u64))
                .collect::<std::result::Result<_, _>>()?,
            rope_filled: 0,
            recordings: HashMap::new(),
            asked: 0,
            history: History::new(options.checkpoints, cache.rewind()),
            cache,
            answer: None,
        })
    }

    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// The cache's buffers, for tests.
    #[doc(hidden)]
    pub fn cache(&self) -> &KvCache {
        &self.cache
    }

    /// The state and the token ids [context + 1] on the device, for tests.
    #[doc(hidden)]
    pub fn state_and_tokens(&self) -> (&View, &View) {
        (&self.state, &self.token_ids)
    }

    /// Bytes of the buffers that the session has made on the device, the recordings' parameters apart.
    pub fn bytes(&self) -> u64 {
        let sampling = sample_bytes(self.model.shape().vocabulary);
        self.cache.total_bytes()
            + self.scratch.total_bytes()
            + self.ropes.iter().map(|r| r.size).sum::<u64>()
            + self.token_ids.size
            + self.report.size
            + sampling
    }

    /// Positions that the cache holds.
    pub fn context(&self) -> usize {
        self.cache.positions
    }

    /// Most tokens of a step.
    pub fn chunk(&self) -> usize {
        self.chunk
    }

    pub fn tier(&self) -> Tier {
        self.tier
    }

    /// Tokens whose keys and values are cached.
    pub fn history(&self) -> &[u32] {
        self.history.tokens()
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.history.clear();
    }

    /// Estimated GPU time of a decode step where `positions` are cached, which its submits are cut by.
    pub fn step_estimate(&self, positions: usize) -> Duration {
        let of = |dispatch| self.pace.estimate(dispatch, positions);
        let seconds = self.decode_recording().dispatches.iter().map(of).map(|e| e.launch + e.work).sum();
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }

    /// Estimated GPU time that one submit may take.
    pub fn submit_bound(&self) -> Duration {
        self.submit
    }

    /// Estimated GPU time of what was given to the device within finite budgets and has not been seen to end.
    pub fn given(&self) -> Duration {
        Duration::from_secs_f64(self.pace.given())
    }

    /// Submits that this was given in, for tests.
    #[doc(hidden)]
    pub fn parts_given(&self) -> usize {
        self.pace.parts_given()
    }

    /// What submits within finite budgets have taken on the device so far.
    pub fn gpu_use(&self) -> GpuUse {
        self.pace.used()
    }

    pub(super) fn gpu(&self) -> &Gpu {
        &self.model.gpu
    }

    /// The recording of one decode step.
    ///
    /// # Panics
    /// Where a device was lost while the cache grew: then there is none, and every question ends with that error.
    pub fn decode_recording(&self) -> &Recording {
        &self.recordings[&(1, Ending::Sample)].recording
    }

    /// The recording of a step of `tokens` tokens, at most the options' chunk, which samples at its end.
    pub fn step_recording(&mut self, tokens: usize) -> Result<&Recording> {
        let tokens = tokens.clamp(1, self.chunk);
        self.record(tokens, Ending::Sample)?;
        Ok(&self.recordings[&(tokens, Ending::Sample)].recording)
    }

    /// The kernels of a step of `tokens` tokens that samples.
    pub(super) fn survey(&mut self, tokens: usize) -> Result<BTreeSet<KernelSpec>> {
        Ok(self.step(tokens, Ending::Sample, |step| step.survey())?.0.surveyed())
    }

    pub(super) fn record(&mut self, tokens: usize, ending: Ending) -> Result<()> {
        self.asked += 1;
        if let Some(recorded) = self.recordings.get_mut(&(tokens, ending)) {
            recorded.used = self.asked;
            return Ok(());
        }
        if self.recordings.len() >= MAX_RECORDINGS {
            self.forget_a_recording();
        }
        let (step, logits) = self.step(tokens, ending, |step| step)?;
        let recording = step.finish()?;
        self.recordings.insert((tokens, ending), Recorded { recording, logits, used: self.asked });
        Ok(())
    }

    /// Drops the recording that was asked for the longest ago; that of decode stays.
    fn forget_a_recording(&mut self) {
        let others = self.recordings.iter().filter(|(key, _)| **key != (1, Ending::Sample));
        if let Some(oldest) = others.min_by_key(|(_, recorded)| recorded.used).map(|(key, _)| *key) {
            self.recordings.remove(&oldest);
        }
    }

    /// A decode step recorded anew, for measurements.
    #[doc(hidden)]
    pub fn record_decode(&mut self) -> Result<Recording> {
        Ok(self.step(1, Ending::Sample, |step| step)?.0.finish()?)
    }

    /// A whole step, and its logits where it ends with those of every token.
    fn step(
        &mut self,
        tokens: usize,
        ending: Ending,
        prepare: impl for<'a> FnOnce(Step<'a>) -> Step<'a>,
    ) -> Result<(Step<'_>, Option<View>)> {
        let architecture = &self.model.architecture;
        let gpu = &self.model.gpu;
        let step = Step::new(gpu, self.tier, tokens, &self.state, &self.token_ids, &mut self.scratch)?;
        let mut step = prepare(step);
        if self.model.weights_move() {
            step.set_record(self.report.slice(RECORD_OFFSET, size_of::<Record>() as u64));
        }
        self.measured.into_iter().for_each(|profile| step.set_profile(profile));
        self.force.into_iter().for_each(|arithmetic| step.force(arithmetic));
        let x = architecture.forward(&mut step, &self.cache, &self.ropes)?;
        let (norm, output) = architecture.head();
        step.enter_layer(self.cache.layers.len());
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
        step.sample(&logits, &self.sample)?;
        Ok((step, None))
    }

    pub(super) fn check_tokens(&self, tokens: &[u32]) -> Result<()> {
        let vocabulary = self.model.shape().vocabulary;
        match tokens.iter().find(|id| **id as usize >= vocabulary) {
            Some(id) => Err(Error::TokenRange { id: *id, vocabulary }),
            None => Ok(()),
        }
    }

    /// Makes room in the cache for positions below `end`, and records the decode step anew where its buffers are others then;
    /// other recordings are made when they are asked for.
    pub(super) fn make_room(&mut self, end: usize) -> Result<()> {
        if end.min(self.cache.positions) <= self.cache.room() {
            return Ok(());
        }
        // They hold the old buffers.
        self.recordings.clear();
        let gpu = self.gpu().clone();
        let grown = self.cache.grow(&gpu, end);
        self.record(1, Ending::Sample)?;
        Ok(grown?)
    }

    /// Fills the rope tables for positions below `end`.
    pub(super) fn fill_rope(&mut self, end: usize) -> Result<()> {
        let end = end.next_multiple_of(ROPE_STEP).min(self.cache.positions);
        if end > self.rope_filled {
            for (rope, view) in self.model.architecture.ropes().iter().zip(&self.ropes) {
                let bytes = rope.frequencies.len() as u64 * 8;
                let table = rope.table(self.rope_filled..end);
                self.model.gpu.write(view, self.rope_filled as u64 * bytes, bytemuck::cast_slice(&table))?;
            }
            self.rope_filled = end;
        }
        Ok(())
    }
}
