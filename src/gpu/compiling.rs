//! Compiling kernels before they are needed: several at a time where there are threads.

use super::{Gpu, KernelSpec, Result};
use crate::clock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

impl Gpu {
    /// Compiles kernels in order for about `time`, one at least; gives how many.
    ///
    /// # Errors
    /// A kernel that the driver refuses.
    pub fn compile(&self, specs: &[KernelSpec], time: Duration) -> Result<usize> {
        let (start, next) = (clock::now(), AtomicUsize::new(0));
        let work = || -> Result<()> {
            while let Some(spec) = specs.get(next.fetch_add(1, Ordering::Relaxed)) {
                self.kernel(spec)?;
                if start.elapsed() >= time {
                    break;
                }
            }
            Ok(())
        };
        on_threads(specs.len(), work)?;
        Ok(next.into_inner().min(specs.len()))
    }
}

/// Runs `work` on as many threads as there are cores, at most `most`.
#[cfg(feature = "native-io")]
#[allow(clippy::disallowed_methods, reason = "part of `native-io`")]
fn on_threads(most: usize, work: impl Fn() -> Result<()> + Copy + Send + Sync) -> Result<()> {
    use std::thread;
    let threads = thread::available_parallelism().map_or(1, |n| n.get()).min(most);
    thread::scope(|scope| {
        let workers: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut result = work();
        for worker in workers {
            result = result.and(worker.join().expect("compiling does not panic"));
        }
        result
    })
}

#[cfg(not(feature = "native-io"))]
fn on_threads(_: usize, work: impl Fn() -> Result<()>) -> Result<()> {
    work()
}
