//! Files, and the threads that read them: the feature `native-io`.

mod file;
mod threads;

pub(super) use file::open_all;
pub use file::{FileSource, forget};
pub use threads::{READERS, Threads};
