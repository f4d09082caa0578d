//! Whatever is wrong with a file, a request or a device comes back as an error that names it, never as a panic.

#[path = "../common/mod.rs"]
mod common;
mod files;
mod mutations;
mod requests;
