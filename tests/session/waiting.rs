//! Loading and generating without a runtime: a task sleeps while the device or the disk works.

use super::*;
use futures::StreamExt;
use halogen::session::Sampling;
use halogen::{Gguf, Model};
use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Instant;

/// Wakes its thread, and counts.
struct Counted {
    thread: Thread,
    wakes: AtomicU32,
}

impl Wake for Counted {
    fn wake(self: Arc<Self>) {
        self.wakes.fetch_add(1, Ordering::Relaxed);
        self.thread.unpark();
    }
}

/// What the future gives, how often it slept, and how often it was woken.
fn counted<T>(future: impl Future<Output = T>) -> (T, u32, u32) {
    let counted = Arc::new(Counted { thread: thread::current(), wakes: AtomicU32::new(0) });
    let waker = Waker::from(counted.clone());
    let mut future = pin!(future);
    let mut slept = 0;
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return (value, slept, counted.wakes.load(Ordering::Relaxed)),
            Poll::Pending => {
                slept += 1;
                // Woken already, or parked until it is.
                thread::park();
            }
        }
    }
}

#[test]
fn a_load_sleeps_while_the_file_is_read() {
    let bytes = include_bytes!("../../assets/rust-docs-moe-q4_k_m.gguf");
    let gguf = Gguf::from_static("demo", bytes).expect("the embedded model");
    let mut chunks = 0;
    let load = Model::load(gpu(), &gguf, |_| {
        chunks += 1;
        true
    });
    let (model, slept, _) = counted(load);
    let stats = model.expect("a model").load_stats();
    assert_eq!(stats.bytes, gguf.data_bytes());
    assert!(slept > 0 && chunks > 1, "{slept} sleeps, {chunks} chunks");
}

#[test]
fn a_load_that_is_dropped_ends_its_threads() {
    let bytes = include_bytes!("../../assets/rust-docs-moe-q4_k_m.gguf");
    let gguf = Gguf::from_static("demo", bytes).expect("the embedded model");
    let start = Instant::now();
    {
        let mut load = pin!(Model::load(gpu(), &gguf, |_| true));
        assert!(load.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    // The readers share the file while they live.
    while gguf.shared() > 1 {
        assert!(start.elapsed().as_secs() < 60, "the readers go on");
        thread::yield_now();
    }
}

#[test]
fn a_stream_is_not_polled_in_a_circle() {
    let mut session = session(&demo(), SessionOptions::default());
    let mut generation = session.generate(&prompt(), &Sampling::greedy(), &[], 24).expect("a generation");
    let start = Instant::now();
    let (tokens, _, wakes) = counted(async {
        let mut count = 0;
        while let Some(token) = generation.next().await {
            token.expect("a token");
            count += 1;
        }
        count
    });
    assert_eq!(tokens, 24);
    // Every half a millisecond at most, however long the steps take; never where the driver computes within the submit.
    let periods = start.elapsed().as_micros() as u32 / 500 + 1;
    assert!(wakes <= periods, "{wakes} wakes in {periods} periods");
}
