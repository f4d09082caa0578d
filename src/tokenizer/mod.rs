//! A GGUF vocabulary as a `tokenizers` tokenizer; chat templates.
//!
//! [`Tokenizer`] turns text into ids and back. [`ChatTemplate`] renders a [`Chat`] as its model was trained to read
//! it, and [`Tokenizer::encode_chat`] joins both so that nothing said in a message is taken for a control token.
//! [`Decoder`], [`Reasoning`] and [`StopStrings`] take an answer apart while it is still being written.

mod build;
mod chat;
mod clock;
mod error;
mod json;
mod pre;
mod stream;
mod template;
mod text;
mod vocab;

pub use chat::Prompt;
pub use error::{Error, Result};
pub use pre::PreTokenizer;
pub use stream::{Markers, Reasoning, Segment, SegmentKind, StopStrings};
pub use template::{Chat, ChatTemplate};
pub use text::{Control, Decoder, Special, Tokenizer};
pub use vocab::TokenType;
