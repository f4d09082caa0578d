//! Files, and the threads that read them: the feature `native-io`.

mod file;
mod threads;

pub use file::FileSource;
pub(super) use file::open_all;
pub use threads::{READERS, Threads};
