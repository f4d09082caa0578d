//! Measurements: models, kernels and the device, each beside the limit of the machine that it ran on.

mod compare;
mod device;
mod disk;
mod experts;
mod kernels;
mod load;
mod model;
pub mod random;
mod roofline;
mod routing;
mod stats;

pub use compare::{Change, Comparison, Verdict, compare};
pub use device::{DeviceRow, device};
pub use experts::{ExpertBench, ExpertReport, ExpertRow, Halving, Kept, MOST_EXCESS, expert_plot};
pub use kernels::{Case, KernelBench, KernelRow, Limit, Selection, Setting, rate};
pub use load::{LoadRow, PageCache, files_of, load};
pub use model::{KernelTime, ModelBench, ModelReport, ModelRow};
pub use random::Random;
pub use roofline::{Ceiling, Point, roofline};
pub use routing::{Skew, chosen_experts, share_of_tenth};
pub use stats::Summary;

use crate::{gpu, ops, session};

/// What can go wrong with a measurement.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Gpu(#[from] gpu::Error),
    #[error(transparent)]
    Op(#[from] ops::Error),
    #[error(transparent)]
    Session(#[from] session::Error),
    /// A result that is not the twin's.
    #[error("{name}: wrong result: {what}; it is not timed")]
    Wrong { name: String, what: String },
    #[error("{name}: {problem}")]
    Case { name: String, problem: String },
}

/// Result of a measurement.
pub type Result<T> = std::result::Result<T, Error>;

/// What every report says of each thing that it measured.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Row {
    pub name: String,
    /// `s` (seconds), or a rate: `t/s`, `B/s`, `FLOP/s`.
    pub unit: String,
    pub figure: Summary,
}

impl Row {
    pub fn lower_is_better(&self) -> bool {
        self.unit == "s"
    }
}
