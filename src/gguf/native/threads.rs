//! Reads on a few threads.

use crate::gguf::{AsyncReadAt, ReadAt, Reading, Then};
use futures::channel::oneshot;
use std::collections::VecDeque;
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

type Job = Box<dyn FnOnce() + Send>;

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

    fn start(&self, job: Job) -> io::Result<()> {
        let mut queue = lock(&self.queue);
        if queue.threads < READERS {
            let shared = self.queue.clone();
            let reader = thread::Builder::new().name("halogen reader".into()).spawn(move || {
                while let Some(job) = next(&shared) {
                    // Whoever waits for it is told, since the sender is dropped.
                    let _ = catch_unwind(AssertUnwindSafe(job));
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

    fn read_at(&self, offset: u64, len: usize, then: Then) -> Reading {
        let (sender, receiver) = oneshot::channel();
        let source = self.source.clone();
        let started = self.start(Box::new(move || {
            if sender.is_canceled() {
                return;
            }
            let mut bytes = vec![0; len];
            let read = source.read_at(offset, &mut bytes).map(|()| then(bytes));
            // Nobody waits for it any more where the load was dropped.
            let _ = sender.send(read);
        }));
        Box::pin(async move {
            started?;
            receiver.await.unwrap_or_else(|_| Err(io::Error::other("a reader panicked")))
        })
    }
}
