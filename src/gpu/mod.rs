//! The device: what it can do, its kernels, recordings of dispatches, and their submission.

mod buffer;
mod caps;
mod compiling;
mod compose;
mod cost;
mod cut;
mod device;
mod heaps;
mod import;
mod kernel;
mod mapped;
mod pace;
mod profile;
mod recording;
mod scopes;
mod staging;
mod submit;
mod timing;
mod waiting;

pub use buffer::View;
pub use caps::{Caps, DeviceClass, Tier};
pub use compose::{Composed, KernelSpec, SHADERS, compose};
pub use cost::Cost;
pub use cut::{Estimate, Mark, Part, cut, next};
pub use device::{AdapterReport, Gpu, Selector, adapters};
pub use heaps::Heap;
pub(crate) use import::Pages;
pub use kernel::{Binding, BindingKind, Kernel, parse, reflect};
pub(crate) use mapped::{Mapped, Room};
pub use pace::{GpuUse, Pace};
pub use profile::DeviceProfile;
pub(crate) use recording::params;
pub use recording::{Call, Dispatch, Grid, Params, Recorder, Recording};
pub use staging::Staging;
pub use submit::{Readback, Stamp, Timed};
pub use timing::{DispatchTime, Timing};

/// What can go wrong between the host and the device.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no GPU adapter found; install a Vulkan driver (Debian: apt-get install mesa-vulkan-drivers)")]
    NoAdapter,
    #[error("no adapter matches `{wanted}`; there are: {found}")]
    NoSuchAdapter { wanted: String, found: String },
    #[error("{adapter}: halogen needs {what}, the adapter offers {has}")]
    AdapterLacks { adapter: String, what: String, has: String },
    #[error("{adapter} has no tier `{tier}`: {missing}")]
    NoTier { adapter: String, tier: Tier, missing: String },
    #[error("{adapter}: opening the device failed: {source}")]
    Open { adapter: String, source: wgpu::RequestDeviceError },
    #[error("{adapter} cannot read weights in the file's own pages: {why}")]
    Import { adapter: String, why: String },
    #[error("kernel {kernel}: {message}")]
    Shader { kernel: String, message: String },
    #[error("kernel {kernel} has no binding `{name}`; it has {has}")]
    NoBinding { kernel: String, name: &'static str, has: String },
    #[error("kernel {kernel}: binding `{name}` was given no buffer")]
    Unbound { kernel: String, name: String },
    #[error("buffer {name}: {bytes} bytes exceed the adapter's limit of {limit} for {what}")]
    TooLarge { name: String, bytes: u64, limit: u64, what: &'static str },
    #[error("kernel {kernel}: a grid of {grid:?} workgroups; a dimension holds at most 65535")]
    Grid { kernel: String, grid: [u32; 3] },
    #[error("out of GPU memory: {0}")]
    OutOfMemory(String),
    #[error("the GPU device was lost: {0}")]
    Lost(String),
    #[error("the GPU rejected {what}: {message}")]
    Rejected { what: String, message: String },
    #[error("unknown tier `{0}`; tiers are core, subgroup, f16, dot, matrix")]
    UnknownTier(String),
}

/// Result of a device operation.
pub type Result<T> = std::result::Result<T, Error>;
