//! A clock that browsers have too.

pub use web_time::Instant;

#[allow(clippy::disallowed_methods, reason = "web_time's is the standard library's where that has one")]
pub fn now() -> Instant {
    Instant::now()
}
