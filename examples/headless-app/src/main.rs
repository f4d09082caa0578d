//! Renders frames at a steady pace while a session answers on the same device, and says what that does to frame times: from
//! the tick to the end of the frame's GPU work, without and with inference.
//!
//!     headless-app [BUDGET_MS | fill] [FRAMES] [OUT.svg]
mod histogram;
mod painter;

use halogen::session::Budget;
use halogen::{Gguf, Gpu, Model, Sampling, Session, SessionOptions};
use histogram::percentile;
use std::time::{Duration, Instant};

static MODEL: &[u8] = include_bytes!("../../../assets/rust-docs-moe-q4_k_m.gguf");
const PERIOD: Duration = Duration::from_nanos(1_000_000_000 / 60);

fn main() {
    let mut args = std::env::args().skip(1);
    let budget = args.next().unwrap_or("2".into());
    let count: usize = args.next().map_or(600, |n| n.parse().expect("FRAMES is a number"));

    // The app opens its device as ever; `extend` adds what halogen can use.
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapter = pollster::block_on(instance.request_adapter(&Default::default())).expect("an adapter");
    let mut wanted = wgpu::DeviceDescriptor::default();
    Gpu::extend(&adapter, &mut wanted);
    let (device, queue) = pollster::block_on(adapter.request_device(&wanted)).expect("a device");
    let gpu = Gpu::from_wgpu(&adapter, device.clone(), queue.clone()).expect("a device that will do");
    let gguf = Gguf::from_static("demo", MODEL).expect("the embedded model");
    let model = pollster::block_on(Model::load(&gpu, &gguf, |_| true)).expect("a model");
    let mut session = Session::new(&model, &SessionOptions::default()).expect("a session");
    let prompt = model.prompt("What is error E0382?").expect("a prompt");
    // The first answer: some drivers finish compiling as a kernel first runs.
    let mut first = session.generate(&prompt, &Sampling::default(), &[], 8).expect("an answer");
    while first.blocking_next().expect("the device").is_some() {}
    drop(first);

    let draw = painter::painter(&device, &queue);
    let frames = |mut between: Box<dyn FnMut() + '_>| -> Vec<f64> {
        let mut tick = Instant::now();
        let frame = |_| {
            tick = (tick + PERIOD).max(Instant::now().checked_sub(PERIOD).expect("a clock"));
            std::thread::sleep(tick.saturating_duration_since(Instant::now()));
            let submission = draw();
            between();
            let done = wgpu::PollType::Wait { submission_index: Some(submission), timeout: None };
            device.poll(done).expect("the device");
            tick.elapsed().as_secs_f64() * 1e3
        };
        (0..count).map(frame).collect()
    };
    let without = frames(Box::new(|| ()));
    let own = Duration::from_secs_f64(percentile(&without, 50) / 1e3);
    let budget = match budget.as_str() {
        "fill" => Budget::fill(PERIOD, own),
        ms => Budget::gpu_time(Duration::from_secs_f64(ms.parse::<f64>().expect("BUDGET_MS is a number") / 1e3)),
    };
    let mut tokens = 0;
    let with = frames(Box::new(|| {
        if !session.is_answering() {
            session.clear();
            session.ask(&prompt, &Sampling::default(), &[], usize::MAX).expect("an answer");
        }
        tokens += session.advance(budget).expect("the device").len();
    }));

    let (used, info) = (session.gpu_use(), adapter.get_info());
    let granted = budget.time().expect("a finite budget").as_secs_f64();
    let idle = PERIOD.saturating_sub(own).as_secs_f64() * count as f64;
    let (spent, of) = (used.time.as_secs_f64(), granted * count as f64);
    println!("{} ({}), {count} frames at 60 a second, budget {:.2} ms", info.name, info.driver_info, granted * 1e3);
    for (name, times) in [("without", &without), ("with", &with)] {
        let p = |percent| percentile(times, percent);
        println!("{name:8} p50 {:6.2} ms   p99 {:6.2} ms   worst {:6.2} ms", p(50), p(99), p(100));
    }
    println!("{tokens} tokens; {} of {} submits took longer than the budget", used.over, used.submits);
    let share = |whole: f64| 100.0 * spent / whole;
    println!("{:.1} % of the granted time and {:.1} % of the idle time spent on them", share(of), share(idle));
    print!("{}", histogram::text(&without, &with));
    if let Some(path) = args.next() {
        std::fs::write(&path, histogram::svg(&info.name, &without, &with)).expect("OUT.svg can be written");
    }
}
