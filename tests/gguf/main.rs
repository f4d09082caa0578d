//! The container: well-formed files, split models, and everything that can be wrong with either.

mod hostile;
mod malformed;
mod read;
mod sample;
mod split;
