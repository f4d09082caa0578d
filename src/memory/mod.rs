//! What lies where: weights from the file into buffers, the KV cache, and the sum of it all before anything is allocated.

mod budget;
mod copies;
mod ends;
mod filling;
mod fit;
mod held;
mod keeps;
mod kv;
mod loader;
mod plan;
mod rows;
mod slots;
mod span;
mod store;
mod stream;

pub use budget::{
    Backing, DenseMemory, ExpertMemory, Placement, PlacementOptions, expert_bytes, expert_layers, expert_stacks,
};
pub use filling::{Filled, Progress, Upload};
pub use fit::{Bound, CHUNK, Demand, ExpertLayer, Fit, Machine, Place, Plan, Routing, System, plan};
pub use keeps::{Compressed, Extent, Keeps, KvWidth};
pub use kv::{KvCache, LayerCache, Rewind, Rings};
pub use loader::{Take, Weights};
pub use plan::{Needs, available_among, available_bytes};
pub use span::{Span, cuts};
pub use store::{ExpertStore, StoreStats};

pub use crate::ops::KvFormat;

use crate::{gguf, gpu};

/// What can go wrong while a model's tensors are placed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Gguf(#[from] gguf::Error),
    #[error(transparent)]
    Gpu(#[from] gpu::Error),
    #[error("{file}: its pages cannot be read in place: {problem}; loading without import would help")]
    Import { file: String, problem: String },
    #[error("{file}: tensor {name} is missing")]
    MissingTensor { file: String, name: String },
    #[error("{file}: tensor {name}: shape {found:?} does not match {expected:?}, which the hyperparameters say")]
    Misshapen { file: String, name: String, found: Vec<u64>, expected: Vec<u64> },
    #[error("{file}: tensor {name} is of type {found}, which halogen does not read as {wanted}")]
    Type { file: String, name: String, found: String, wanted: String },
    #[error("{file}: tensor {name}: row {row} holds the id {value}: ids from 0 to below {end} are needed")]
    Id { file: String, name: String, row: usize, value: i32, end: usize },
    #[error("{file}: tensor {name} and {more} more have no part in this architecture as halogen knows it")]
    Unused { file: String, name: String, more: usize },
    #[error("{file}: one expert of {name} has {bytes} bytes; the adapter binds at most {limit}")]
    Unit { file: String, name: String, bytes: u64, limit: u64 },
    #[error("{file}: tensor {name}: experts that come and go must say their layer: blk.N.…")]
    Unnumbered { file: String, name: String },
    #[error("{file}: {bytes} bytes for experts hold fewer than the {used} of one token; at least {least} are needed")]
    FewExperts { file: String, bytes: u64, least: u64, used: u64 },
    #[error("{file}: {bytes} bytes for dense layers; two slots for the largest need {least}")]
    FewLayers { file: String, bytes: u64, least: u64 },
    #[error(
        "{file}: {bytes} bytes are fewer than the {least} that can do: {session} for cache and scratch, {stays} of vectors and \
         tables that always stay, two slots of {layer} for dense layers, {experts} for the experts of a token; a larger --gpu-memory or a \
         smaller -c would help"
    )]
    BelowLeast { file: String, bytes: u64, least: u64, session: u64, stays: u64, layer: u64, experts: u64 },
    #[error(
        "{file}: weights that come and go take {bytes} bytes of host memory, {available} are free; --experts disk would help"
    )]
    HostMemory { file: String, bytes: u64, available: u64 },
    #[error("a q8_0 cache is in blocks of {block} values, heads have {dim} here; -ctk f16 -ctv f16 would help")]
    KvBlocks { dim: usize, block: usize },
    #[error("compressed keys are not kept in q8_0; -ctk f16 -ctv f16 would help")]
    KvCompressed,
    #[error(
        "a layer's {what} has {rows} rows of {row} bytes: more than {most} shards of {limit} bytes hold, which is what a kernel binds \
         on this adapter, or the first has no room for the {least} that it must hold; a smaller -c, or -ctk q8_0 -ctv q8_0, \
         would help"
    )]
    KvShards { what: &'static str, rows: usize, row: u64, least: usize, most: usize, limit: u64 },
    #[error("loading was cancelled")]
    Cancelled,
    #[error(
        "the model does not fit: weights {weights}, KV cache {kv} for {context} tokens, scratch {scratch} and checkpoints \
         {checkpoints} need {total} bytes, {available} are available on {adapter}; a smaller -c or a smaller quantisation would help"
    )]
    DoesNotFit {
        weights: u64,
        kv: u64,
        scratch: u64,
        checkpoints: u64,
        total: u64,
        available: u64,
        context: usize,
        adapter: String,
    },
}

/// Result of placing something.
pub type Result<T> = std::result::Result<T, Error>;
