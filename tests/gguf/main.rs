//! The container: well-formed files, split models, and everything that can be wrong with either.

#[cfg(all(target_os = "linux", feature = "native-io"))]
mod cache;
mod hostile;
mod malformed;
mod read;
mod sample;
mod split;
