//! Boxed futures and streams, `Send` where wgpu is.

#[cfg(not(target_family = "wasm"))]
pub use futures::{future::BoxFuture, stream::BoxStream};
#[cfg(target_family = "wasm")]
pub use futures::{future::LocalBoxFuture as BoxFuture, stream::LocalBoxStream as BoxStream};
