//! A model on a device: weights, tokenizer, chat template. Sessions share it.

use super::digest::fingerprint;
use super::{Error, Result};
use crate::clock;
use crate::gguf::Gguf;
use crate::gpu::Gpu;
use crate::memory::{Backing, ExpertStore, Filled, Placement, Progress, StoreStats, Upload, Weights};
use crate::models::{self, Architecture};
use crate::tokenizer::{self, Chat, ChatTemplate, Special, Tokenizer};
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
    pub upload: Upload,
}

/// A model whose weights lie on a device.
pub struct Model {
    pub(super) gpu: Gpu,
    /// Of its file.
    name: String,
    fingerprint: u64,
    pub(super) architecture: Box<dyn Architecture>,
    shape: models::Shape,
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    load: LoadStats,
    /// Where not all weights are resident. One for all sessions.
    store: Option<Mutex<ExpertStore>>,
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
        let start = clock::now();
        let (name, fingerprint) = (gguf.name().to_string(), fingerprint(gguf).await?);
        let named = |source| match source {
            // These name the file themselves.
            tokenizer::Error::Gguf(error) => Error::Gguf(error),
            source => Error::Vocabulary { file: gguf.name().into(), source: Box::new(source) },
        };
        let tokenizer = Tokenizer::from_metadata(gguf.metadata()).map_err(named)?;
        let template = ChatTemplate::from_metadata(gguf.metadata()).map_err(named)?;
        let mut asking = Weights::new(gguf, gpu)?;
        models::load(&mut asking)?;
        let mut weights = asking.read().await?;
        weights.limit(&options.placement);
        options.upload.into_iter().for_each(|upload| weights.upload_by(upload));
        let (architecture, shape) = models::load(&mut weights)?;
        let mut store = weights.take_store();
        let filling = clock::now();
        let Filled { mut bytes, layout, upload } = weights.fill(progress).await?;
        if let Some(store) = &mut store {
            let own = gpu.info().device_type == wgpu::DeviceType::DiscreteGpu;
            bytes += store.hold_on_host(options.backing, own).await?;
        }
        let store = store.map(Mutex::new);
        let load = LoadStats { bytes, time: start.elapsed(), fill: filling.elapsed(), layout, upload };
        let gpu = gpu.clone();
        Ok(Arc::new(Model { gpu, name, fingerprint, architecture, shape, tokenizer, template, load, store }))
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

    pub fn gpu(&self) -> &Gpu {
        &self.gpu
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
        self.store.is_some()
    }

    /// Whether dense layers pass through for every step.
    pub fn layers_stream(&self) -> bool {
        self.weights_move() && self.store().streams()
    }

    /// What the store did so far, for all sessions; `None` where all weights are resident.
    pub fn store_stats(&self) -> Option<StoreStats> {
        self.weights_move().then(|| self.store().stats())
    }

    /// Whether what comes and goes is kept in host memory, not read from the file.
    pub fn holds_on_host(&self) -> bool {
        self.weights_move() && self.store().holds()
    }

    /// Takes all experts out of their slots, for tests.
    #[doc(hidden)]
    pub fn evict_experts(&self) -> Result<()> {
        Ok(self.store().evict()?)
    }

    /// The store, of a model that has one.
    pub(super) fn store(&self) -> MutexGuard<'_, ExpertStore> {
        let store = self.store.as_ref().expect("weights that come and go");
        store.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The clock of a step that starts now.
    pub(super) fn next_clock(&self) -> u32 {
        if self.weights_move() { self.store().clock.wrapping_add(1) } else { 0 }
    }

    pub fn shape(&self) -> &models::Shape {
        &self.shape
    }
}
