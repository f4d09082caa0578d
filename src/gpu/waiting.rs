//! Waiting without blocking. wgpu calls back only from a poll of the device, and nobody is sure to poll while a task sleeps:
//! so a task that waits is woken every half a millisecond to poll for itself.

use super::{Error, Gpu, Result};
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::thread;
use std::time::Duration;

/// Between two looks: a token is shown no later than this after its step.
const PERIOD: Duration = Duration::from_micros(500);
/// Periods without a waiting task after which the thread ends.
const IDLE_PERIODS: u32 = 20;

/// Wakes tasks after a moment, from a thread that lives while there are any.
#[derive(Clone, Default)]
pub(super) struct Alarm {
    asleep: Arc<Mutex<Asleep>>,
}

#[derive(Default)]
struct Asleep {
    wakers: Vec<Waker>,
    thread_runs: bool,
}

impl Alarm {
    fn wake_soon(&self, waker: &Waker) {
        let mut asleep = self.asleep.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        asleep.wakers.push(waker.clone());
        if !asleep.thread_runs {
            asleep.thread_runs = true;
            let alarm = self.clone();
            thread::spawn(move || alarm.ring());
        }
    }

    fn ring(&self) {
        let mut idle = 0;
        while idle < IDLE_PERIODS {
            thread::sleep(PERIOD);
            let mut asleep = self.asleep.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            let wakers = std::mem::take(&mut asleep.wakers);
            idle = if wakers.is_empty() { idle + 1 } else { 0 };
            asleep.thread_runs = idle < IDLE_PERIODS;
            drop(asleep);
            wakers.into_iter().for_each(Waker::wake);
        }
    }
}

impl Gpu {
    /// Wakes the task within about half a millisecond, to look at the device again.
    pub(crate) fn wake_soon(&self, waker: &Waker) {
        self.alarm().wake_soon(waker);
    }

    /// Ends when all that was submitted so far has run.
    ///
    /// # Errors
    /// A lost device.
    pub async fn finished(&self) -> Result<()> {
        let done = Arc::new(AtomicBool::new(false));
        let told = done.clone();
        self.queue().on_submitted_work_done(move || told.store(true, Ordering::Release));
        self.until(|| done.load(Ordering::Acquire)).await
    }

    /// Ends when `done` says so, which a callback of the device has told it.
    ///
    /// # Errors
    /// A lost device.
    pub(super) async fn until(&self, done: impl Fn() -> bool) -> Result<()> {
        poll_fn(|context| match self.poll() {
            Err(error) => Poll::Ready(Err(error)),
            Ok(()) if done() => Poll::Ready(Ok::<(), Error>(())),
            Ok(()) => {
                self.wake_soon(context.waker());
                Poll::Pending
            }
        })
        .await
    }
}
