//! `halogen = { version = "0.1", default-features = false, features = ["native-io"] }`
//!
//! halogen runs large language models, mixtures of experts first, on any GPU that WebGPU reaches: Vulkan, Metal, DX12.
//! It computes on a device of its own or on the app's, prints nothing and sets no global state. Its threads end with what they
//! are for: reading a file, compiling kernels, rendering a chat template, waking a task that waits for the device.
//!
//! ```no_run
//! use futures::StreamExt;
//! use halogen::tokenizer::Control;
//! use halogen::{Gguf, Gpu, Model, Sampling, Selector, Session, SessionOptions};
//!
//! # async fn answer() -> Result<(), halogen::Error> {
//! let gpu = Gpu::new(Selector::Best).await?; // or Gpu::from_wgpu(&adapter, device, queue)
//! let gguf = Gguf::open("model.gguf".as_ref())?;
//! let model = Model::load(&gpu, &gguf, |p| { println!("{} of {} bytes", p.bytes, p.total); true }).await?;
//! let mut session = Session::new(&model, &SessionOptions::default())?;
//!
//! let prompt = model.prompt("Why is the sky blue?")?;
//! let mut text = model.tokenizer().stream(Control::Skip);
//! let mut tokens = session.generate(&prompt, &Sampling::default(), model.tokenizer().end_tokens(), 500)?;
//! while let Some(token) = tokens.next().await {
//!     print!("{}", text.push(token?.id)); // whole characters, as they come
//! }
//! # Ok(())
//! # }
//! ```
//!
//! An app that draws opens its device with [`Gpu::extend`], which adds what halogen can use to what the app asks for,
//! and hands it over with [`Gpu::from_wgpu`]. It calls [`Session::ask`], and then once a frame [`Session::advance`] with the GPU
//! time that it lends: docs/embedding.md. A [`Generation`] is a [`futures::Stream`] for any executor: it never blocks, and is
//! woken every half a millisecond while its step runs. A program that has nothing else to do calls [`Generation::blocking_next`].
//!
//! How it is built, and where to add a format, an operator or a model: ARCHITECTURE.md.

#![cfg_attr(not(test), warn(clippy::disallowed_methods, clippy::disallowed_types))]

#[cfg(feature = "native-io")]
#[allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "measurements wait, and read files")]
pub mod bench;
mod boxed;
mod clock;
pub mod formats;
pub mod gguf;
pub mod gpu;
pub mod memory;
pub mod models;
pub mod ops;
pub mod presets;
pub mod session;
pub mod tokenizer;

pub use gguf::Gguf;
pub use gpu::{Gpu, Selector, Tier};
pub use session::{Budget, Error, Generation, Model, Result, Sampling, Session, SessionOptions, StopReason, Token};
