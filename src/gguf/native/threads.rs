//! Reads on a few threads.

use crate::gguf::{AsyncReadAt, ReadAt, Reading, Target, Then};
use futures::channel::oneshot;
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

/// Threads of a source: reads that are in flight at once.
pub const READERS: usize = 4;

/// A source that may keep its caller waiting, read by threads of its own. They begin with a read and end when none is left.
pub struct Threads<S> {
    source: Arc<S>,
    queue: Arc<Mutex<Queue>>,
}

/// It may use the thread's vector.
type Job = Box<dyn FnOnce(&mut Vec<u8>) + Send>;

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    threads: usize,
}

fn lock(queue: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    queue.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl<S: ReadAt + 'static> Threads<S> {
    pub fn new(source: S) -> Self {
        Threads { source: Arc::new(source), queue: Arc::default() }
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
        let mut queue = lock(&self.queue);
        if queue.threads < READERS {
            let shared = self.queue.clone();
            let reader = thread::Builder::new().name("halogen reader".into()).spawn(move || {
                // Memory that was touched once: what is fresh costs more than a read from the page cache.
                let mut bytes = Vec::new();
                while let Some(job) = next(&shared) {
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
        Ok(())
    }
}

/// What a thread does next; without, it ends, and is not counted any more.
fn next(queue: &Mutex<Queue>) -> Option<Job> {
    let mut queue = lock(queue);
    let job = queue.jobs.pop_front();
    queue.threads -= usize::from(job.is_none());
    job
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
