//! A model on a device: weights, tokenizer, chat template. Sessions share it.

use super::digest::fingerprint;
use super::{Error, Result, Share};
use crate::clock;
use crate::gguf::Gguf;
use crate::gpu::Gpu;
use crate::memory::{Backing, ExpertStore, Filled, Placement, Progress, Span, StoreStats, Upload, Weights};
use crate::models::{self, Architecture};
use crate::tokenizer::{self, Chat, ChatTemplate, Special, Tokenizer};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// What loading took.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoadStats {
    /// Bytes read from the file.
    pub bytes: u64,
    pub time: Duration,
    /// Of it, from the first weight until the device has all of them.
    pub fill: Duration,
    /// Of all threads together, what laying out rows took.
    pub layout: Duration,
    /// How the weights got to the device; to the last of several.
    pub upload: Upload,
    /// Of the bytes, those that devices read in the file's own pages.
    pub imported: u64,
}

/// What of a model lies on one device.
pub(super) struct Part {
    pub gpu: Gpu,
    pub span: Span,
    pub architecture: Box<dyn Architecture>,
    /// Where not all weights are resident. One for all sessions.
    store: Option<Mutex<ExpertStore>>,
}

/// A model whose weights lie on a device, or on several by layers.
pub struct Model {
    /// In the order of layers, one at least.
    pub(super) parts: Vec<Part>,
    /// Of its file.
    name: String,
    fingerprint: u64,
    shape: models::Shape,
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    load: LoadStats,
}

/// How a model is loaded.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoadOptions {
    /// Which weights are not to be resident; by default all are.
    pub placement: Placement,
    /// Where those are kept.
    pub backing: Backing,
    /// How resident weights get to the device; by default as [`Upload::on`] says.
    pub upload: Option<Upload>,
}

impl Part {
    /// Whether weights come and go.
    pub fn weights_move(&self) -> bool {
        self.store.is_some()
    }

    /// The store, where there is one.
    pub fn store(&self) -> MutexGuard<'_, ExpertStore> {
        let store = self.store.as_ref().expect("weights that come and go");
        store.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub fn store_stats(&self) -> Option<StoreStats> {
        self.weights_move().then(|| self.store().stats())
    }
}

impl Model {
    /// Loads a model's tensors onto a device. The file is read while the future uploads what came, a chunk of a few MiB at a
    /// time; between chunks it sleeps. `progress` is told bytes read and to read; `false` cancels, as does dropping
    /// the future.
    ///
    /// # Errors
    /// Whatever is wrong with the file, by tensor or key; an adapter without room.
    pub async fn load(gpu: &Gpu, gguf: &Gguf, progress: impl FnMut(Progress) -> bool) -> Result<Arc<Model>> {
        Model::load_with(gpu, gguf, &LoadOptions::default(), progress).await
    }

    /// As [`Model::load`], with options.
    pub async fn load_with(
        gpu: &Gpu,
        gguf: &Gguf,
        options: &LoadOptions,
        progress: impl FnMut(Progress) -> bool,
    ) -> Result<Arc<Model>> {
        let LoadOptions { placement, backing, upload } = *options;
        let share = Share { gpu: gpu.clone(), span: Span::whole(), placement, upload };
        Model::load_shares(&[share], gguf, backing, progress).await
    }

    /// As [`Model::load`], by layers onto several devices: [`Share::among`] says which. Each step passes from one to the next,
    /// over the host: that adds memory, not speed.
    ///
    /// # Errors
    /// As [`Model::load`], of each of the devices.
    pub async fn load_shares(
        shares: &[Share],
        gguf: &Gguf,
        backing: Backing,
        mut progress: impl FnMut(Progress) -> bool,
    ) -> Result<Arc<Model>> {
        let start = clock::now();
        let (name, fingerprint) = (gguf.name().to_string(), fingerprint(gguf).await?);
        let named = |source| match source {
            // These name the file themselves.
            tokenizer::Error::Gguf(error) => Error::Gguf(error),
            source => Error::Vocabulary { file: gguf.name().into(), source: Box::new(source) },
        };
        let tokenizer = Tokenizer::from_metadata(gguf.metadata()).map_err(named)?;
        let template = ChatTemplate::from_metadata(gguf.metadata()).map_err(named)?;
        let (mut parts, mut shape, mut bytes) = (Vec::new(), None, 0);
        for share in shares {
            let mut asking = Weights::new(gguf, &share.gpu)?;
            models::load(&mut asking)?;
            let mut weights = asking.read().await?;
            weights.limit(&share.span, &share.placement, backing)?;
            share.upload.map_or(Ok(()), |upload| weights.upload_by(upload))?;
            let (architecture, own) = models::load(&mut weights)?;
            (shape, bytes) = (Some(own), bytes + weights.total());
            parts.push((share, architecture, weights.take_store(), weights));
        }
        let filling = clock::now();
        let mut load = LoadStats::default();
        let (mut filled, mut before) = (Vec::new(), 0);
        for (share, architecture, mut store, weights) in parts {
            let told = |at: Progress| progress(Progress { bytes: before + at.bytes, total: bytes });
            let Filled { bytes, layout, upload, imported } = weights.fill(told).await?;
            (load.upload, load.imported) = (upload, load.imported + imported);
            before += bytes;
            (load.bytes, load.layout) = (load.bytes + bytes, load.layout + layout);
            if let Some(store) = &mut store {
                let own = share.gpu.info().device_type == wgpu::DeviceType::DiscreteGpu;
                load.bytes += store.hold_on_host(backing, own).await?;
            }
            let (gpu, span) = (share.gpu.clone(), share.span.clone());
            filled.push(Part { gpu, span, architecture, store: store.map(Mutex::new) });
        }
        (load.time, load.fill) = (start.elapsed(), filling.elapsed());
        let shape = shape.expect("a model has a share");
        Ok(Arc::new(Model { parts: filled, name, fingerprint, shape, tokenizer, template, load }))
    }

    /// The file's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What tells the model from others without reading all of it: a digest of its metadata, of the names, shapes, types and
    /// sizes of all tensors, and of 4 KiB from the middle of 64 of them, evenly spaced. Files whose weights differ elsewhere
    /// only have the same.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// The device; of several the one with the last layers, which picks tokens.
    pub fn gpu(&self) -> &Gpu {
        &self.parts.last().expect("a model lies somewhere").gpu
    }

    /// The devices with the layers that lie there, in their order.
    pub fn devices(&self) -> impl Iterator<Item = (&Gpu, Range<usize>)> {
        self.parts.iter().map(|part| (&part.gpu, part.span.layers(self.shape.keeps.len())))
    }

    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The file's chat template, if it has one.
    pub fn template(&self) -> Option<&ChatTemplate> {
        self.template.as_ref()
    }

    /// The token ids that ask the model to answer `text`: one user message through the chat template, or, of a model
    /// without one, the text itself. Conversations: [`Tokenizer::encode_chat`].
    pub fn prompt(&self, text: &str) -> Result<Vec<u32>> {
        let Some(template) = &self.template else { return Ok(self.tokenizer.encode_prompt(text, Special::Text)) };
        let messages = vec![serde_json::json!({"role": "user", "content": text})];
        let chat = Chat { messages, add_generation_prompt: true, ..Chat::default() };
        Ok(self.tokenizer.encode_chat(template, &chat, Special::Text)?.ids)
    }

    /// What loading took.
    pub fn load_stats(&self) -> LoadStats {
        self.load
    }

    /// Whether weights come and go, since not all fit: experts, or dense layers.
    pub fn weights_move(&self) -> bool {
        self.parts.iter().any(Part::weights_move)
    }

    /// Whether dense layers pass through for every step.
    pub fn layers_stream(&self) -> bool {
        self.stores().any(|store| store.streams())
    }

    fn stores(&self) -> impl Iterator<Item = MutexGuard<'_, ExpertStore>> {
        self.parts.iter().filter(|part| part.weights_move()).map(Part::store)
    }

    /// What the stores did so far, for all sessions; `None` where all weights are resident.
    pub fn store_stats(&self) -> Option<StoreStats> {
        self.parts.iter().filter_map(Part::store_stats).reduce(|sum, stats| sum + stats)
    }

    /// Whether what comes and goes is kept in host memory, not read from the file.
    pub fn holds_on_host(&self) -> bool {
        self.stores().any(|store| store.holds())
    }

    /// Takes all experts out of their slots, for tests.
    #[doc(hidden)]
    pub fn evict_experts(&self) -> Result<()> {
        Ok(self.stores().try_for_each(|mut store| store.evict())?)
    }

    /// The clock of a step that starts now.
    pub(super) fn next_clock(&self) -> u32 {
        self.stores().map(|store| store.clock.wrapping_add(1)).max().unwrap_or(0)
    }

    pub fn shape(&self) -> &models::Shape {
        &self.shape
    }
}
