//! A model, a session on it, and how it is to answer.

use super::answer::{Answer, Reader, Sink};
use super::options::{Args, Switch};
use super::stats::Stats;
use crate::cli::{human, model, output};
use anyhow::Result;
use halogen::gguf::Gguf;
use halogen::gpu::Gpu;
use halogen::session::{Model, Sampling, Session, SessionOptions};
use halogen::tokenizer::{Chat, Prompt, Special};
use serde_json::{Map, Value};
use std::sync::Arc;

/// Whatever answers need.
pub struct Runner {
    pub name: String,
    pub gpu: Gpu,
    pub model: Arc<Model>,
    pub session: Session,
    pub sampling: Sampling,
    /// Whether prompts go through the chat template.
    pub chat: bool,
    variables: Map<String, Value>,
    stops: Vec<String>,
    limit: usize,
}

impl Runner {
    pub fn new(args: &Args, name: Option<&str>, verbose: bool) -> Result<Runner> {
        let gguf = model::open(name)?;
        let sampling = args.sampling.resolve(gguf.metadata())?;
        let gpu = args.device.open()?;
        let model = model::load(&gpu, &gguf, || false)?;
        let session = open_session(args, &gguf, &model)?;
        let chat = !args.raw && model.template().is_some();
        if !args.raw && !chat {
            output::note(format_args!(
                "{}: no chat template in the file; prompts go to the model as they are",
                gguf.name()
            ));
        }
        let mut variables = Map::new();
        if let Some(think) = args.think {
            variables.insert("enable_thinking".into(), (think == Switch::On).into());
        }
        if verbose {
            output::note(format_args!("{}the decode step, dispatch by dispatch", session.decode_recording()));
            output::note(format_args!("seed {}, context {}", sampling.seed, session.context()));
        }
        Ok(Runner {
            name: gguf.name().into(),
            gpu,
            model,
            session,
            sampling,
            chat,
            variables,
            stops: args.stop.clone(),
            limit: args.max_tokens.map_or(usize::MAX, |n| n as usize),
        })
    }

    /// The conversation as the model reads it.
    pub fn prompt(&self, messages: &[Value]) -> Result<Prompt> {
        let tokenizer = self.model.tokenizer();
        if let Some(template) = self.model.template().filter(|_| self.chat) {
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
        let markers = self.model.template().filter(|_| self.chat).and_then(|t| t.reasoning());
        let reader = Reader::new(&tokenizer, markers, &prompt.text, &self.stops, sink);
        let generation = self.session.generate(&prompt.ids, &self.sampling, tokenizer.end_tokens(), self.limit)?;
        reader.read(generation)
    }

    pub fn stats(&self, answer: &Answer) -> Stats {
        Stats::new(self, answer)
    }
}

/// A session of the context asked for, else of as much as fits, at most 8192 positions.
fn open_session(args: &Args, gguf: &Gguf, model: &Arc<Model>) -> Result<Session> {
    let shape = model.shape();
    let wanted = args.ctx.map(|n| n as usize);
    if let Some(wanted) = wanted.filter(|n| *n > shape.context) {
        output::note(format_args!(
            "note: {} was made for a context of {} tokens, not {wanted}; answers may get worse past it",
            gguf.name(),
            shape.context
        ));
    }
    let mut options = SessionOptions { context: wanted, tier: args.device.tier, ..SessionOptions::default() };
    if wanted.is_none()
        && let Some(available) = halogen::memory::available_bytes(model.gpu().info().device_type)
    {
        let all = shape.context.min(8192);
        let fits = |context: usize| {
            let options = SessionOptions { context: Some(context), ..options.clone() };
            Session::needs(shape, &options).total() <= available
        };
        let context = (0..).map(|halvings| all >> halvings).find(|c| *c <= SMALLEST || fits(*c)).unwrap_or(all);
        if context < all {
            output::note(format_args!(
                "note: a context of {context} tokens instead of {all}, for {} of memory are left",
                human::bytes(available)
            ));
        }
        options.context = Some(context);
    }
    Ok(Session::new(model, &options)?)
}

/// The context is not made smaller than this to fit.
const SMALLEST: usize = 512;
