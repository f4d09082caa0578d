//! Loading and generating without a runtime: a task sleeps while the device or the disk works.

use super::*;
use futures::StreamExt;
use halogen::gguf::{AsyncReadAt, ReadAt, Reading, Then};
use halogen::session::Sampling;
use halogen::{Gguf, Model};
use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Instant;

const DEMO: &[u8] = include_bytes!("../../assets/rust-docs-moe-q4_k_m.gguf");

/// Takes its time, and counts reads.
struct Slow(Arc<AtomicU32>);

impl ReadAt for Slow {
    fn len(&self) -> u64 {
        DEMO.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        self.0.fetch_add(1, Ordering::Relaxed);
        thread::sleep(std::time::Duration::from_millis(50));
        buf.copy_from_slice(&DEMO[offset as usize..][..buf.len()]);
        Ok(())
    }
}

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
    let gguf = Gguf::from_static("demo", DEMO).expect("the embedded model");
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
    let reads = Arc::new(AtomicU32::new(0));
    let gguf = Gguf::from_source("demo", DEMO, halogen::gguf::source(Slow(reads.clone()))).expect("the embedded model");
    let start = Instant::now();
    {
        let mut load = pin!(Model::load(gpu(), &gguf, |_| true));
        assert!(load.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    drop(gguf);
    // The readers share the file while they live.
    while Arc::strong_count(&reads) > 1 {
        assert!(start.elapsed().as_secs() < 60, "the readers go on");
        thread::yield_now();
    }
    // Each of the few threads ends its read, and what is queued behind them is not read.
    assert!(reads.load(Ordering::Relaxed) <= 4, "{reads:?} reads of what nobody wants");
}

/// An app's own source: what it is asked for comes when the app says so, and on the app's thread.
#[test]
fn a_model_loads_from_a_source_that_answers_late() {
    struct Fetched;
    impl AsyncReadAt for Fetched {
        fn len(&self) -> u64 {
            DEMO.len() as u64
        }

        fn read_at(&self, offset: u64, len: usize, then: Then) -> Reading {
            Box::pin(async move {
                let mut looks = 0;
                poll_fn(|context| {
                    looks += 1;
                    context.waker().wake_by_ref();
                    if looks > 3 { Poll::Ready(()) } else { Poll::Pending }
                })
                .await;
                Ok(then(&mut DEMO[offset as usize..][..len].to_vec()))
            })
        }
    }
    let gguf = Gguf::from_source("demo", DEMO, Box::new(Fetched)).expect("the embedded model");
    let expected = answer(&mut session(&demo(), SessionOptions::default()), &prompt(), &Sampling::greedy(), 8);
    let resident = load(gpu(), &gguf).expect("a model");
    assert_eq!(answer(&mut session(&resident, SessionOptions::default()), &prompt(), &Sampling::greedy(), 8), expected);
    // Experts that come and go come the same way, and a stream is woken for them.
    let moving = store::limited(&gguf, halogen::memory::expert_bytes(&gguf) / 4);
    let mut asking = session(&moving, SessionOptions::default());
    let generation = asking.generate(&prompt(), &Sampling::greedy(), &[], 8).expect("a generation");
    let (tokens, ..) = counted(generation.map(|token| token.expect("a token").id).collect::<Vec<_>>());
    assert_eq!(tokens, expected);
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
