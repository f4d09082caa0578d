//! halogen runs large language models, mixtures of experts first, on any GPU through WebGPU.

pub mod formats;
pub mod gguf;
pub mod gpu;
pub mod memory;
pub mod models;
pub mod ops;
pub mod session;
pub mod tokenizer;
