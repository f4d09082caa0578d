//! Waiting without blocking. Whatever ends rings an alarm, and tasks that wait look again. wgpu calls back only from a poll of
//! the device, though, and outside a browser nobody is sure to poll while a task sleeps: there a clock rings every half a
//! millisecond, so that the task polls for itself.

use super::{Error, Gpu, Result};
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Poll, Wake, Waker};

/// Wakes tasks that wait for the device or the disk.
#[derive(Clone, Default)]
pub struct Alarm {
    asleep: Arc<Mutex<Asleep>>,
}

#[derive(Default)]
struct Asleep {
    wakers: Vec<Waker>,
    #[cfg(feature = "native-io")]
    clock_runs: bool,
}

impl Alarm {
    fn asleep(&self) -> MutexGuard<'_, Asleep> {
        self.asleep.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Wakes all who wait; whether there were any.
    pub(super) fn ring(&self) -> bool {
        let wakers = std::mem::take(&mut self.asleep().wakers);
        let any = !wakers.is_empty();
        wakers.into_iter().for_each(Waker::wake);
        any
    }

    fn wake_soon(&self, waker: &Waker) {
        let mut asleep = self.asleep();
        asleep.wakers.push(waker.clone());
        #[cfg(feature = "native-io")]
        if !std::mem::replace(&mut asleep.clock_runs, true) {
            let alarm = self.clone();
            clock::start(alarm);
        }
    }
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.ring();
    }
}

#[cfg(feature = "native-io")]
#[allow(clippy::disallowed_methods, reason = "part of `native-io`")]
mod clock {
    use super::Alarm;
    use std::thread;
    use std::time::Duration;

    /// Between two looks: a token is shown no later than this after its step.
    const PERIOD: Duration = Duration::from_micros(500);
    /// Periods without a waiting task after which the thread ends.
    const IDLE_PERIODS: u32 = 20;

    pub fn start(alarm: Alarm) {
        thread::spawn(move || {
            let mut idle = 0;
            while idle < IDLE_PERIODS {
                thread::sleep(PERIOD);
                idle = if alarm.ring() { 0 } else { idle + 1 };
                let mut asleep = alarm.asleep();
                // Whoever came since is not left alone.
                idle = if asleep.wakers.is_empty() { idle } else { 0 };
                asleep.clock_runs = idle < IDLE_PERIODS;
            }
        });
    }
}

impl Gpu {
    /// Wakes the task when something has ended, or within about half a millisecond, to look at the device again.
    pub(crate) fn wake_soon(&self, waker: &Waker) {
        self.alarm().wake_soon(waker);
    }

    /// Rings for tasks that wait for what the device does not do: reads.
    pub(crate) fn waker(&self) -> Waker {
        Waker::from(Arc::new(self.alarm().clone()))
    }

    /// Set by a poll once all that was submitted so far has run; what was dropped before is free then.
    pub(crate) fn seen(&self) -> Arc<AtomicBool> {
        let seen = Arc::new(AtomicBool::new(false));
        let told = seen.clone();
        self.queue().on_submitted_work_done(move || told.store(true, Ordering::Release));
        seen
    }

    /// Ends when all that was submitted so far has run.
    ///
    /// # Errors
    /// A lost device.
    pub async fn finished(&self) -> Result<()> {
        let done = Arc::new(AtomicBool::new(false));
        let (told, alarm) = (done.clone(), self.alarm().clone());
        self.queue().on_submitted_work_done(move || {
            told.store(true, Ordering::Release);
            alarm.ring();
        });
        self.until(|| done.load(Ordering::Acquire)).await
    }

    /// Ends when `done` says so, of which a callback of the device has told it.
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
