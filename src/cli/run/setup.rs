//! A model, a session on it, and how it is to answer.

use super::INTERRUPTED;
use super::answer::{Answer, Reader, Sink};
use super::options::{Args, Switch};
use super::stats::Stats;
use crate::cli::{model, output, pipelines, profile};
use anyhow::Result;
use halogen::gguf::Gguf;
use halogen::gpu::{DeviceProfile, Gpu};
use halogen::memory::KvCache;
use halogen::models;
use halogen::session::{Model, Sampling, Session, SessionOptions, Share};
use halogen::tokenizer::{Chat, Prompt, Special};
use serde_json::{Map, Value};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Whatever answers need.
pub struct Runner {
    pub name: String,
    pub model: Arc<Model>,
    pub session: Session,
    pub sampling: Sampling,
    /// Of each device; `None`: it could not be measured.
    pub profiles: Vec<Option<DeviceProfile>>,
    /// Whether prompts go through the chat template.
    templated: bool,
    variables: Map<String, Value>,
    stops: Vec<String>,
    limit: usize,
}

impl Runner {
    pub fn new(args: &Args, name: Option<&str>, verbose: bool) -> Result<Runner> {
        let gguf = model::open(name)?;
        let sampling = args.sampling.resolve(gguf.metadata())?;
        let gpus = args.upload.open(&args.device)?;
        let options = session_options(args, &gguf, &gpus)?;
        let measure = |gpu: &Gpu| {
            let unmeasured = |error| output::note(format_args!("note: the device could not be measured: {error}"));
            profile::of(gpu, false).map_err(unmeasured).ok()
        };
        let profiles: Vec<Option<DeviceProfile>> = gpus.iter().map(measure).collect();
        let placed = model::place(&gpus, &gguf, &options, &args.device, &args.placement, &args.upload)?;
        let model = model::load(&placed, &gguf, || INTERRUPTED.load(Ordering::Relaxed))?;
        let submit = Duration::from_millis(args.submit_ms.into());
        let (limits, further_limits) = (profiles[0], profiles[1..].to_vec());
        let options = SessionOptions { limits, further_limits, submit: Some(submit), ..options };
        let session = pipelines::session(&model, &options)?;
        let templated = !args.raw && model.template().is_some();
        if !args.raw && !templated {
            output::note(format_args!("note: {} has no chat template; it is given prompts as they are", gguf.name()));
        }
        if verbose {
            session.decode_recordings().for_each(|recording| output::note(recording.to_string().trim_end()));
            output::note(format_args!("seed {}, context {}", sampling.seed, session.context()));
        }
        Ok(Runner {
            name: gguf.name().into(),
            model,
            session,
            sampling,
            profiles,
            templated,
            variables: args.think.map(|t| ("enable_thinking".into(), (t == Switch::On).into())).into_iter().collect(),
            stops: args.stop.clone(),
            limit: args.max_tokens.map_or(usize::MAX, |n| n as usize),
        })
    }

    /// The conversation as the model reads it.
    pub fn prompt(&self, messages: &[Value]) -> Result<Prompt> {
        let tokenizer = self.model.tokenizer();
        if let Some(template) = self.model.template().filter(|_| self.templated) {
            let chat = Chat {
                messages: messages.to_vec(),
                add_generation_prompt: true,
                variables: self.variables.clone(),
                ..Chat::default()
            };
            return Ok(tokenizer.encode_chat(template, &chat, Special::Text)?);
        }
        let contents: Vec<&str> = messages.iter().filter_map(|m| m["content"].as_str()).collect();
        let text = contents.join("\n\n");
        Ok(Prompt { ids: tokenizer.encode_prompt(&text, Special::Token), text })
    }

    /// Answers a prompt into `sink`, until it ends or Ctrl-C.
    pub fn answer(&mut self, prompt: &Prompt, sink: Sink) -> Result<Answer> {
        let tokenizer = self.model.tokenizer().clone();
        let markers = self.model.template().filter(|_| self.templated).and_then(|t| t.reasoning());
        let reader = Reader::new(&tokenizer, markers, &prompt.text, &self.stops, sink);
        let generation = self.session.generate(&prompt.ids, &self.sampling, tokenizer.end_tokens(), self.limit)?;
        reader.read(generation)
    }

    pub fn stats(&self, answer: &Answer) -> Stats {
        Stats::new(self, answer)
    }
}

/// The context is not made smaller than this to fit.
const LEAST_CONTEXT: usize = 512;

/// The context asked for, else as much as fits of the model's, at most 8192. Experts make room for it: a model of which they
/// alone do not fit keeps it whole.
fn session_options(args: &Args, gguf: &Gguf, gpus: &[Gpu]) -> Result<SessionOptions> {
    let shape = models::shape(gguf)?;
    let kv = args.cache.format()?;
    KvCache::check(&shape.keeps, kv)?;
    let (tier, chunk) = (args.device.tier, args.ubatch_size as usize);
    let options = SessionOptions { tier, kv, chunk, ..SessionOptions::default() };
    let with = |context: usize| SessionOptions { context: Some(context), ..options.clone() };
    if let Some(context) = args.ctx.map(|n| n as usize) {
        if context > shape.context {
            let (name, made_for) = (gguf.name(), shape.context);
            output::note(format_args!(
                "note: {name} was made for {made_for} tokens of context; past them it gets worse"
            ));
        }
        return Ok(with(context));
    }
    let all = shape.context.min(8192);
    let wishes = args.placement.options(args.device.gpu_memory);
    let context = largest_context(all, |context| Share::among(gpus, gguf, &with(context), &wishes).is_ok());
    if context < all {
        output::note(format_args!("note: a context of {context} instead of {all} tokens; no more fits"));
    }
    Ok(with(context))
}

/// `all`, halved until it fits, but not below [`LEAST_CONTEXT`].
fn largest_context(all: usize, fits: impl Fn(usize) -> bool) -> usize {
    let mut context = all;
    while context > LEAST_CONTEXT && !fits(context) {
        context = (context / 2).max(LEAST_CONTEXT);
    }
    context
}

#[cfg(test)]
mod tests {
    use super::largest_context;

    #[test]
    fn the_context_shrinks_until_it_fits() {
        assert_eq!(largest_context(8192, |_| true), 8192);
        assert_eq!(largest_context(8192, |c| c <= 2500), 2048);
        assert_eq!(largest_context(8192, |_| false), 512);
        assert_eq!(largest_context(700, |_| false), 512);
        assert_eq!(largest_context(100, |_| false), 100);
    }
}
