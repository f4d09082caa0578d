//! The GGUF container: header, metadata, tensor table, split files, reading.

mod value;
pub use value::{Metadata, Value};
