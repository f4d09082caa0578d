//! Reads on a few threads.

use crate::gguf::{AsyncReadAt, ReadAt, Reading, Target, Then};
use futures::channel::oneshot;
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

/// Threads of a source: reads that are in flight at once.
pub const READERS: usize = 4;

/// How long a thread waits for another read before it ends: misses of experts come in bursts, and a new thread costs more than a
/// small read.
const IDLE: Duration = Duration::from_secs(1);

/// A source that may keep its caller waiting, read by threads of its own. They begin with a read and end when none has come for a
/// while, or with the source.
pub struct Threads<S> {
    source: Arc<S>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// Rung for a thread that waits.
    changed: Condvar,
}

/// It may use the thread's vector.
type Job = Box<dyn FnOnce(&mut Vec<u8>) + Send>;

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    threads: usize,
    /// Of them, those that wait for a job.
    idle: usize,
    /// The source is gone.
    closed: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// What a thread does next; without, it ends, and is not counted any more.
    fn next(&self) -> Option<Job> {
        let mut queue = self.lock();
        if queue.jobs.is_empty() {
            queue.idle += 1;
            let nothing = |queue: &mut Queue| queue.jobs.is_empty() && !queue.closed;
            let waited = self.changed.wait_timeout_while(queue, IDLE, nothing);
            queue = waited.unwrap_or_else(|poisoned| poisoned.into_inner()).0;
            queue.idle -= 1;
        }
        let job = queue.jobs.pop_front();
        queue.threads -= usize::from(job.is_none());
        job
    }
}

impl<S> Drop for Threads<S> {
    /// Reads that somebody waits for are still made.
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_all();
    }
}

impl<S: ReadAt + 'static> Threads<S> {
    pub fn new(source: S) -> Self {
        Threads { source: Arc::new(source), shared: Arc::default() }
    }

    /// What `read` gives on one of the threads; it may use the thread's vector.
    fn read(&self, read: impl FnOnce(&S, &mut Vec<u8>) -> io::Result<Vec<u8>> + Send + 'static) -> Reading {
        let (sender, receiver) = oneshot::channel();
        let source = self.source.clone();
        let started = self.start(Box::new(move |bytes| {
            if !sender.is_canceled() {
                // Nobody waits for it any more where the load was dropped.
                let _ = sender.send(read(&source, bytes));
            }
        }));
        Box::pin(async move {
            started?;
            receiver.await.unwrap_or_else(|_| Err(io::Error::other("a reader panicked")))
        })
    }

    fn start(&self, job: Job) -> io::Result<()> {
        let mut queue = self.shared.lock();
        // Those that wait may have jobs before this one to take.
        if queue.idle <= queue.jobs.len() && queue.threads < READERS {
            let shared = self.shared.clone();
            let reader = thread::Builder::new().name("halogen reader".into()).spawn(move || {
                // Memory that was touched once: what is fresh costs more than a read from the page cache.
                let mut bytes = Vec::new();
                while let Some(job) = shared.next() {
                    // Whoever waits for it is told, since the sender is dropped.
                    let _ = catch_unwind(AssertUnwindSafe(|| job(&mut bytes)));
                }
            });
            // Threads that there are take it where no other can be had.
            match reader {
                Ok(_) => queue.threads += 1,
                Err(error) if queue.threads == 0 => return Err(error),
                Err(_) => {}
            }
        }
        queue.jobs.push_back(job);
        drop(queue);
        self.shared.changed.notify_one();
        Ok(())
    }
}

impl<S: ReadAt + 'static> AsyncReadAt for Threads<S> {
    fn len(&self) -> u64 {
        self.source.len()
    }

    fn forget(&self, offset: u64, len: u64) {
        self.source.forget(offset, len);
    }

    fn file(&self) -> Option<&File> {
        self.source.file()
    }

    fn read_at(&self, offset: u64, len: usize, then: Then) -> Reading {
        self.read(move |source, bytes| {
            bytes.resize(len, 0);
            source.read_at(offset, bytes).map(|()| then(bytes))
        })
    }

    fn read_into(&self, offset: u64, mut target: Target) -> Reading {
        self.read(move |source, _| source.read_at(offset, (*target).as_mut()).map(|()| Vec::new()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::thread::ThreadId;

    /// Takes note of who reads.
    #[derive(Default)]
    struct Watched(Mutex<HashSet<ThreadId>>);

    impl ReadAt for Watched {
        fn len(&self) -> u64 {
            1
        }

        fn read_at(&self, _: u64, _: &mut [u8]) -> io::Result<()> {
            self.0.lock().expect("no reader panics").insert(thread::current().id());
            Ok(())
        }
    }

    #[test]
    fn reads_one_after_another_are_made_by_the_same_threads() {
        let threads = Threads::new(Watched::default());
        for _ in 0..50 {
            pollster::block_on(threads.read_at(0, 1, Box::new(std::mem::take))).expect("a read");
        }
        assert!(threads.source.0.lock().expect("no reader panics").len() <= READERS);
    }
}
