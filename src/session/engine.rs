//! The engine of a session: what it needs, and its parts on devices.

use super::answer::{Answer, MOST_AHEAD};
use super::history::History;
use super::missing::is_lookup;
use super::stage::{Ending, Stage};
use super::{Error, MAX_CONTEXT, Model, Result, SessionOptions};
use crate::gpu::{GpuUse, Recording, Tier, View};
use crate::memory::{Extent, KvCache, Needs};
use crate::ops::{Ground, sample_bytes};
use std::sync::Arc;
use std::time::Duration;

/// A conversation on a model. It owns its cache and scratch memory; several may run on one device.
pub struct Session {
    model: Arc<Model>,
    tier: Tier,
    chunk: usize,
    pub(super) options: Arc<SessionOptions>,
    /// In the order of layers.
    pub(super) stages: Vec<Stage>,
    pub(super) history: History,
    /// The answer that is being generated, or was last.
    pub(super) answer: Option<Answer>,
}

/// Most tokens of a step: the default limit of workgroups a dimension, which holds them.
const MAX_CHUNK: usize = 65_535;

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
        let best = model.parts.iter().map(|part| part.gpu.caps().tier).min().expect("a model lies somewhere");
        let tier = options.tier.unwrap_or(best);
        model.parts.iter().try_for_each(|part| part.gpu.require(tier))?;
        let shape = model.shape();
        let context = Self::context_of(shape, options);
        if !(1..=MAX_CONTEXT).contains(&context) {
            return Err(Error::Context { context });
        }
        for part in &model.parts {
            Session::needs(&shape.of(&part.span), options).check(&part.gpu)?;
        }
        let (chunk, extent) = (Self::chunk_of(context, options), Self::extent(context, options));
        let options = Arc::new(options.clone());
        let stage = |index| Stage::new(model, index, tier, chunk, extent, &options);
        let stages = (0..model.parts.len()).map(stage).collect::<Result<Vec<Stage>>>()?;
        let history = History::new(options.checkpoints, stages[0].cache.rewind());
        Ok(Session { model: model.clone(), tier, chunk, options, stages, history, answer: None })
    }

    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// What layers keep; where they lie on several devices, those of the first.
    pub fn cache(&self) -> &KvCache {
        &self.stages[0].cache
    }

    /// The state and the token ids [context + 1] on the device, for tests.
    #[doc(hidden)]
    pub fn state_and_tokens(&self) -> (&View, &View) {
        let stage = self.last_stage();
        (&stage.state, &stage.token_ids)
    }

    /// Bytes of the buffers that the session has made on all devices, the recordings' parameters apart.
    pub fn bytes(&self) -> u64 {
        self.stages.iter().map(Stage::bytes).sum()
    }

    /// Positions that the cache holds.
    pub fn context(&self) -> usize {
        self.cache().positions
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
        let of_stage = |stage: &Stage| -> f64 {
            let of = |dispatch| stage.pace.estimate(dispatch, positions);
            let dispatches = &stage.recording((1, Ending::Sample)).dispatches;
            dispatches.iter().map(of).map(|e| e.launch + e.work).sum()
        };
        Duration::try_from_secs_f64(self.stages.iter().map(of_stage).sum()).unwrap_or(Duration::MAX)
    }

    /// Estimated GPU time that one submit may take.
    pub fn submit_bound(&self) -> Duration {
        self.stages[0].submit
    }

    /// Estimated GPU time of what was given to the device within finite budgets and has not been seen to end.
    pub fn given(&self) -> Duration {
        Duration::from_secs_f64(self.stages.iter().map(|stage| stage.pace.given()).sum())
    }

    /// Has the cache on a device find no memory so many times while it grows, for tests.
    #[doc(hidden)]
    pub fn starve(&mut self, device: usize, times: u32) {
        self.stages[device].cache.starved = times;
    }

    /// Submits that this was given in, for tests.
    #[doc(hidden)]
    pub fn parts_given(&self) -> usize {
        self.stages.iter().map(|stage| stage.pace.parts_given()).sum()
    }

    /// What submits within finite budgets have taken on the device so far.
    pub fn gpu_use(&self) -> GpuUse {
        self.stages.iter().map(|stage| stage.pace.used()).fold(GpuUse::default(), |sum, used| sum + used)
    }

    /// Whether layers lie on several devices: then a step begins where the last one's token is known.
    pub(super) fn is_split(&self) -> bool {
        self.stages.len() > 1
    }

    /// Decode steps that are worth queueing behind one where experts come and go, and whether a beginning of the next one is.
    pub(super) fn steps_ahead(&self) -> (usize, bool) {
        let stage = &self.stages[0];
        let recording = stage.recording((1, Ending::Sample));
        let lookups = recording.dispatches.iter().filter(|d| is_lookup(d)).count().max(1);
        let ahead = stage.lookups_in_part(recording).saturating_mul(2);
        (ahead / lookups, ahead > 0)
    }

    /// Host time spent encoding submits so far: [`crate::gpu::Gpu::encode_time`].
    pub(super) fn encode_time(&self) -> Duration {
        self.stages.iter().map(|stage| stage.gpu().encode_time()).sum()
    }

    /// Where the last layers lie.
    pub(super) fn last_stage(&self) -> &Stage {
        self.stages.last().expect("a session has a stage")
    }

    /// Views of each stage, and whose they are.
    pub(super) fn views(&self, of: impl Fn(&KvCache) -> Vec<View>) -> Vec<(usize, View)> {
        let of = |(index, stage): (usize, &Stage)| of(&stage.cache).into_iter().map(move |view| (index, view));
        self.stages.iter().enumerate().flat_map(of).collect()
    }

    /// The recording of one decode step; where layers lie on several devices, of the first of them.
    ///
    /// # Panics
    /// Where a device was lost while the cache grew: then there is none, and every question ends with that error.
    pub fn decode_recording(&self) -> &Recording {
        self.stages[0].recording((1, Ending::Sample))
    }

    /// The recordings of one decode step, of each device in the order of layers.
    ///
    /// # Panics
    /// As [`Session::decode_recording`].
    pub fn decode_recordings(&self) -> impl Iterator<Item = &Recording> {
        self.stages.iter().map(|stage| stage.recording((1, Ending::Sample)))
    }

    /// The recordings of a step of `tokens` tokens, at most the options' chunk, which samples at its end, of each device in the order
    /// of layers.
    pub fn step_recordings(&mut self, tokens: usize) -> Result<impl Iterator<Item = &Recording>> {
        let key = (tokens.clamp(1, self.chunk), Ending::Sample);
        self.record(key)?;
        Ok(self.stages.iter().map(move |stage| stage.recording(key)))
    }

    /// The recording of a step of `tokens` tokens, at most the options' chunk, which samples at its end; where layers lie on several
    /// devices, of the first of them.
    pub fn step_recording(&mut self, tokens: usize) -> Result<&Recording> {
        Ok(self.step_recordings(tokens)?.next().expect("a session has a stage"))
    }

    pub(super) fn record(&mut self, key: (usize, Ending)) -> Result<()> {
        self.stages.iter_mut().try_for_each(|stage| stage.record(key))
    }

    /// A decode step recorded anew, for measurements.
    #[doc(hidden)]
    pub fn record_decode(&mut self) -> Result<Recording> {
        self.stages[0].record_decode()
    }

    pub(super) fn check_tokens(&self, tokens: &[u32]) -> Result<()> {
        let vocabulary = self.model.shape().vocabulary;
        match tokens.iter().find(|id| **id as usize >= vocabulary) {
            Some(id) => Err(Error::TokenRange { id: *id, vocabulary }),
            None => Ok(()),
        }
    }

    /// Positions for which there is room on all devices without growing.
    pub(super) fn room(&self) -> usize {
        self.stages.iter().map(|stage| stage.cache.room()).min().unwrap_or(0)
    }

    /// Whether a cache has begun to grow and found no memory so far.
    pub(super) fn lacks_memory(&self) -> bool {
        self.stages.iter().any(|stage| stage.cache.is_short())
    }

    /// [`Stage::make_room`], on every device; whether there is room on all.
    pub(super) fn make_room(&mut self, end: usize, wait: bool) -> Result<bool> {
        let mut all = true;
        for stage in &mut self.stages {
            all &= stage.make_room(end, wait)?;
        }
        Ok(all)
    }
}
