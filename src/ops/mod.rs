//! Operators: each checks its shapes, picks the variant for the device, and records its dispatches into a [`Step`].

mod arithmetic;
mod attention;
mod compressed;
mod delta_chunks;
mod delta_net;
mod embed;
mod experts;
mod gate;
mod glu;
mod heads;
mod hyper;
mod index;
mod input;
mod kv;
mod latent;
mod linear;
mod lookup;
mod norm;
mod router;
mod sample;
mod shards;
mod tensor;
mod tiled;
mod tuning;
pub mod twins;
mod variants;

pub use arithmetic::{Arithmetic, Choice, Ground, Product};
pub use attention::{Attention, MAX_HEAD_DIM, Window};
pub use compressed::{CompressedAttention, CompressedLayer, Compressor, Entry, IndexQueries};
pub use delta_net::{DeltaHeads, DeltaNet, KeySharing, RecurrentLayer};
pub use experts::{ExpertBias, ExpertGateUp, ExpertMlp};
pub use heads::{Heads, RopePairs, Temperature};
pub use hyper::{HyperConnection, Joining, STREAMS};
pub use index::{IndexChoice, Indexer, Indexing, Selection};
pub use input::{BLOCK, BLOCK_WORDS, rounded_bytes};
pub use kv::{KvFormat, KvLayer};
pub use latent::{LatentAttention, LatentInputs};
pub use linear::Activation;
pub use lookup::{MAX_EXPERTS, NOWHERE, Record};
pub use norm::Norm;
pub use router::{ExpertRouter, HashRouter, Routing, Scoring, SigmoidRouter};
pub use sample::{SampleBuffers, sample_bytes};
pub use shards::shards_at_once;
pub use tensor::{GateUp, Joint, Matrix, Part, Shard, Stack, Tensor};
pub use tuning::{MatmulTile, MatrixTile, Tuning};
pub use variants::variants;

use crate::formats::Format;
use crate::gpu::{self, DeviceProfile, Gpu, KernelSpec, Recorder, Recording, Tier, View};
use std::collections::{BTreeSet, HashMap};
use std::ops::Range;

/// What an operator refuses.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Gpu(#[from] gpu::Error),
    #[error("{op}: {message}")]
    Shape { op: &'static str, message: String },
}

/// Result of recording an operator.
pub type Result<T> = std::result::Result<T, Error>;

/// Fails with `message` unless `holds`.
fn ensure(holds: bool, op: &'static str, message: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::Shape { op, message: message() }) }
}

/// Activations that live from one dispatch to the next, by name. Each holds the rows of the largest step, and every
/// layer and recording uses the same.
pub struct Scratch {
    max_tokens: usize,
    buffers: HashMap<&'static str, View>,
}

impl Scratch {
    /// For steps of at most `max_tokens` tokens.
    pub fn new(max_tokens: usize) -> Self {
        Scratch { max_tokens, buffers: HashMap::new() }
    }

    /// A buffer of at least `bytes`.
    pub fn bytes(&mut self, gpu: &Gpu, name: &'static str, bytes: u64) -> Result<View> {
        if let Some(view) = self.buffers.get(name).filter(|v| v.size >= bytes) {
            return Ok(view.clone());
        }
        let view = gpu.buffer(name, bytes)?;
        self.buffers.insert(name, view.clone());
        Ok(view)
    }

    /// The buffer `name`, if a step has asked for it.
    pub fn get(&self, name: &str) -> Option<&View> {
        self.buffers.get(name)
    }

    /// The rows of an activation that a step of `tokens` tokens holds, if a step has asked for it.
    pub fn rows(&self, name: &str, tokens: usize) -> Option<View> {
        let view = self.get(name)?;
        let row = (view.size / self.max_tokens as u64).next_multiple_of(4);
        Some(view.slice(0, view.size.min(row * tokens as u64)))
    }

    /// Bytes of all buffers so far.
    pub fn total_bytes(&self) -> u64 {
        self.buffers.values().map(|v| v.size).sum()
    }
}

/// One forward pass over `tokens` tokens, being recorded.
pub struct Step<'a> {
    pub(crate) recorder: Recorder<'a>,
    pub(crate) scratch: &'a mut Scratch,
    pub(crate) tuning: Tuning,
    pub(crate) ground: Ground,
    tokens: usize,
    token_ids: View,
    /// Of misses, where experts come and go.
    record: Option<View>,
}

impl<'a> Step<'a> {
    /// A step of `tokens` tokens on kernels of at most `tier`. `state` is the step's state buffer and `token_ids` the
    /// history, u32 [context + 1], of which the step reads those from the state's position on.
    pub fn new(
        gpu: &'a Gpu,
        tier: Tier,
        tokens: usize,
        state: &View,
        token_ids: &View,
        scratch: &'a mut Scratch,
    ) -> Result<Self> {
        gpu.require(tier)?;
        // Kernels that work on a token a workgroup do not test a folded grid's end.
        ensure(tokens >= 1 && tokens <= scratch.max_tokens.min(65_535), "step", || {
            format!("{tokens} tokens; the scratch buffers hold 1 to {}, a grid 65,535", scratch.max_tokens)
        })?;
        Ok(Step {
            recorder: Recorder::new(gpu, state.clone()),
            scratch,
            tuning: *Tuning::of(gpu.caps().class),
            ground: Ground { tier, profile: None, force: None },
            tokens,
            token_ids: token_ids.clone(),
            record: None,
        })
    }

    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Other sizes than those of the device's kind, for operators recorded from here on: for tests and measurements.
    pub fn tune(&mut self, change: impl FnOnce(&mut Tuning)) {
        change(&mut self.tuning);
    }

    /// What the device was measured to reach, by which the arithmetic of products recorded from here on is chosen.
    pub fn set_profile(&mut self, profile: DeviceProfile) {
        self.ground.profile = Some(profile);
    }

    /// This arithmetic, wherever there is a kernel of it, in products recorded from here on: for tests and measurements.
    pub fn force(&mut self, arithmetic: Arithmetic) {
        self.ground.force = Some(arithmetic);
    }

    /// Dispatches that follow belong to `layer`.
    pub fn enter_layer(&mut self, layer: usize) {
        self.recorder.enter_layer(layer as u32);
    }

    /// Only dispatches of these layers are recorded from here on: the others run on other devices.
    pub fn only(&mut self, layers: Range<u32>) {
        self.recorder.only(layers);
    }

    /// An activation [tokens, columns], f32.
    pub fn tensor(&mut self, name: &'static str, columns: usize) -> Result<Tensor> {
        let bytes = (self.scratch.max_tokens * columns * 4) as u64;
        let view = self.scratch.bytes(self.recorder.gpu(), name, bytes)?;
        Ok(Tensor { view, first_row: 0, rows: self.tokens, columns })
    }

    /// From here on only the kernels that the step needs are noted, for [`Step::surveyed`].
    pub fn survey(mut self) -> Self {
        self.recorder.survey();
        self
    }

    /// The kernels that a surveyed step needs.
    pub fn surveyed(self) -> BTreeSet<KernelSpec> {
        self.recorder.surveyed()
    }

    /// The recorded step.
    pub fn finish(self) -> Result<Recording> {
        Ok(self.recorder.finish()?)
    }

    /// The arithmetic of a product with a matrix [rows, columns].
    fn arithmetic(&self, product: Product, format: Format, shape: [usize; 2]) -> Arithmetic {
        self.ground.choose(product, format, shape).arithmetic
    }

    /// A kernel whose reductions suit the tier, for workgroups of `wg`.
    fn reducing(&self, shader: &'static str, wg: u32) -> KernelSpec {
        KernelSpec::new(shader).size("WG", wg).flag("SUBGROUP", self.ground.tier >= Tier::Subgroup)
    }
}
