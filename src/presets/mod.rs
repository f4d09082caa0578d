//! Models and machines by name: published hyperparameters, the tensors that they make, models made up in their shape.

mod blocks;
mod cache;
mod demand;
mod machine;
mod mixture;
mod model;
mod synthetic;
mod tensors;
mod usage;

pub use cache::{Cache, cache};
pub use demand::{Asked, asked};
pub use machine::{MachinePreset, machines};
pub use mixture::Mixture;
pub use model::{ModelPreset, Published, models};
pub use synthetic::Synthetic;
pub use tensors::{Heads, Kind, Shaped, Untold, is_expert, tensors};
pub use usage::Usage;

use crate::{gguf, memory, models};

/// What can go wrong with a name or with what it stands for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Gguf(#[from] gguf::Error),
    #[error(transparent)]
    Model(#[from] models::Error),
    #[error(transparent)]
    Memory(#[from] memory::Error),
    #[error("no preset `{name}`; there are {known}")]
    UnknownModel { name: String, known: String },
    #[error("no machine `{name}`; there are {known}")]
    UnknownMachine { name: String, known: String },
    #[error("no format `{name}`; there are {known}")]
    UnknownFormat { name: String, known: String },
    #[error("{file}: the tensors of architecture `{architecture}` are not known")]
    UnknownArchitecture { file: String, architecture: String },
}

/// Result of looking something up.
pub type Result<T> = std::result::Result<T, Error>;
