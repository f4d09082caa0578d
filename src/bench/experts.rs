//! A model whose experts come and go, against the bound that its misses set: a step takes what it takes where all experts are
//! there, and what is missing takes the time to read it.

use super::roofline::escape;
use super::{Error, Random, Result, Row, Summary};
use crate::gguf::{Error as ReadError, Gguf, READERS, TensorInfo};
use crate::gpu::Gpu;
use crate::memory::{Backing, ExpertMemory, Placement, StoreStats, expert_bytes, expert_stacks};
use crate::session::{LoadOptions, Model, Sampling, Session, SessionOptions, Stats};
use serde::Serialize;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// One budget.
#[derive(Clone, Debug, Serialize)]
pub struct ExpertRow {
    /// `tg64 @ 50 %`, in tokens a second.
    #[serde(flatten)]
    pub row: Row,
    /// Percent of the experts' bytes.
    pub share: u32,
    pub expert_bytes: u64,
    /// Of the experts that steps needed, those that were there.
    pub hit_rate: f64,
    pub missed_bytes_per_token: f64,
    /// Of the time, what steps stood still for missing experts.
    pub stalled: f64,
    /// 1 / (resident step + missed bytes / read rate)
    pub bound_tokens_per_second: f64,
    pub fraction_of_bound: f64,
}

/// All budgets, and what they are held against.
#[derive(Clone, Debug, Serialize)]
pub struct ExpertReport {
    pub rows: Vec<ExpertRow>,
    /// Of a decode step where all experts are there: measured, or where they do not fit the largest budget's without its stalls.
    pub resident_step_seconds: f64,
    /// Random reads of this model's experts, as many in flight as the store has, or the way to the device if that is slower.
    pub read_bytes_per_second: f64,
}

/// What a run of one budget took.
struct Run {
    seconds: f64,
    stats: StoreStats,
}

/// Tokens of the prompt, which also fills slots.
const PROMPT: usize = 16;
/// Spent on measuring random reads.
const READ_TIME: Duration = Duration::from_millis(500);
/// Handed to the device to measure the way there.
const LINK_BYTES: u64 = 32 << 20;

/// Decodes `tokens` tokens after a short prompt of random ones, `repetitions` times at each share (percent of the experts'
/// bytes; 100 is resident), after a run that is not counted.
///
/// # Errors
/// A share that does not hold one token's experts; whatever loading and generating fail with.
pub fn experts(
    gpu: &Gpu,
    gguf: &Gguf,
    options: &SessionOptions,
    shares: &[u32],
    tokens: usize,
    repetitions: usize,
) -> Result<ExpertReport> {
    let all = expert_bytes(gguf);
    if all == 0 {
        return Err(Error::Case { name: gguf.name().into(), problem: "no layer has experts".into() });
    }
    let mut shares = shares.to_vec();
    shares.sort_unstable_by(|a, b| b.cmp(a));
    let mut measured = Vec::new();
    for share in shares {
        let bytes = (u128::from(all) * u128::from(share) / 100) as u64;
        measured.push((share, bytes, runs(gpu, gguf, options, bytes, tokens, repetitions)?));
    }
    let read = random_read_rate(gguf, READ_TIME).map_err(crate::session::Error::from)?;
    let read_bytes_per_second = read.min(link_rate(gpu, gguf)?);
    let Some((_, _, largest)) = measured.first() else {
        return Err(Error::Case { name: gguf.name().into(), problem: "no budget to measure".into() });
    };
    let steps: Vec<f64> =
        largest.iter().map(|run| (run.seconds - run.stats.stall.as_secs_f64()) / tokens as f64).collect();
    let resident = Summary::of(&steps).median;
    let rows =
        measured.iter().map(|(share, bytes, runs)| row(*share, *bytes, runs, tokens, resident, read_bytes_per_second));
    Ok(ExpertReport { rows: rows.collect(), resident_step_seconds: resident, read_bytes_per_second })
}

fn runs(
    gpu: &Gpu,
    gguf: &Gguf,
    options: &SessionOptions,
    bytes: u64,
    tokens: usize,
    repetitions: usize,
) -> Result<Vec<Run>> {
    let experts = ExpertMemory::within(gguf, bytes).map_err(crate::session::Error::from)?;
    let placement = Placement { experts, dense: None };
    let model = pollster::block_on(Model::load_with(
        gpu,
        gguf,
        &LoadOptions { placement, backing: Backing::Disk, upload: None },
        |_| true,
    ))?;
    let mut session = Session::new(&model, &SessionOptions { context: Some(PROMPT + tokens + 1), ..options.clone() })?;
    let mut random = Random::new(1);
    let vocabulary = model.shape().vocabulary;
    let prompt: Vec<u32> = (0..PROMPT).map(|_| random.below(vocabulary) as u32).collect();
    run(&model, &mut session, &prompt, tokens)?;
    (0..repetitions.max(1)).map(|_| run(&model, &mut session, &prompt, tokens)).collect()
}

/// One answer, from the token of the prompt on.
fn run(model: &Arc<Model>, session: &mut Session, prompt: &[u32], tokens: usize) -> Result<Run> {
    session.clear();
    let mut generation = session.generate(prompt, &Sampling::greedy(), &[], tokens + 1)?;
    generation.blocking_next()?;
    let before = model.store_stats().unwrap_or_default();
    while generation.blocking_next()?.is_some() {}
    let stats = model.store_stats().unwrap_or_default() - before;
    let Stats { decode, decode_tokens, .. } = generation.stats();
    Ok(Run { seconds: decode.as_secs_f64() / decode_tokens.max(1) as f64 * tokens as f64, stats })
}

fn row(share: u32, expert_bytes: u64, runs: &[Run], tokens: usize, resident: f64, read_rate: f64) -> ExpertRow {
    let tokens = tokens as f64;
    let mean = |of: fn(&Run) -> f64| runs.iter().map(of).sum::<f64>() / runs.len() as f64;
    let (hits, misses) = (mean(|r| r.stats.hits as f64), mean(|r| r.stats.misses as f64));
    let missed = mean(|r| r.stats.bytes as f64) / tokens;
    let bound = 1.0 / (resident + missed / read_rate);
    let rates: Vec<f64> = runs.iter().map(|r| tokens / r.seconds.max(1e-9)).collect();
    let figure = Summary::of(&rates);
    ExpertRow {
        row: Row { name: format!("tg{tokens} @ {share} %"), unit: "t/s".into(), figure },
        share,
        expert_bytes,
        hit_rate: if misses > 0.0 { hits / (hits + misses) } else { 1.0 },
        missed_bytes_per_token: missed,
        stalled: mean(|r| r.stats.stall.as_secs_f64() / r.seconds.max(1e-9)),
        bound_tokens_per_second: bound,
        fraction_of_bound: figure.median / bound,
    }
}

/// Bytes a second of reading experts of a file at random, as many at once as the store does, for about `time`.
fn random_read_rate(gguf: &Gguf, time: Duration) -> std::result::Result<f64, ReadError> {
    let stacks: Vec<&TensorInfo> = expert_stacks(gguf).collect();
    let (start, bytes) = (Instant::now(), AtomicU64::new(0));
    let read = |seed| -> std::result::Result<(), ReadError> {
        let (mut random, mut buffer) = (Random::new(seed), Vec::new());
        while start.elapsed() < time {
            let tensor = stacks[random.below(stacks.len())];
            let experts = tensor.dims.get(2).copied().unwrap_or(1);
            let expert = tensor.bytes / experts;
            buffer.resize(expert as usize, 0);
            gguf.blocking_read(tensor, random.below(experts as usize) as u64 * expert, &mut buffer)?;
            bytes.fetch_add(expert, Ordering::Relaxed);
        }
        Ok(())
    };
    thread::scope(|scope| {
        let read = &read;
        let readers: Vec<_> = (0..READERS as u64).map(|seed| scope.spawn(move || read(seed))).collect();
        readers.into_iter().try_for_each(|reader| reader.join().expect("a reader does not panic"))
    })?;
    Ok(bytes.into_inner() as f64 / start.elapsed().as_secs_f64())
}

/// Bytes a second of handing experts to the device.
fn link_rate(gpu: &Gpu, gguf: &Gguf) -> Result<f64> {
    let expert = |t: &TensorInfo| t.bytes / t.dims.get(2).copied().unwrap_or(1).max(1);
    let bytes = expert_stacks(gguf).map(expert).max().unwrap_or(0).next_multiple_of(4).clamp(4, LINK_BYTES);
    let (view, data) = (gpu.buffer("link", LINK_BYTES)?, vec![0u8; bytes as usize]);
    let write_all = || -> Result<()> {
        (0..LINK_BYTES / bytes).try_for_each(|i| gpu.write(&view, i * bytes, &data))?;
        gpu.flush()?;
        Ok(gpu.blocking_wait()?)
    };
    // Memory that is touched for the first time is slower.
    write_all()?;
    let start = Instant::now();
    write_all()?;
    Ok((LINK_BYTES / bytes * bytes) as f64 / start.elapsed().as_secs_f64())
}

/// Where the plot lies, and how large it is.
const LEFT: f64 = 70.0;
const TOP: f64 = 50.0;
const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 320.0;

/// Draws tokens a second over the share of the experts that fits: measured, and the bound.
pub fn expert_plot(title: &str, report: &ExpertReport) -> String {
    let bottom = TOP + HEIGHT;
    let most = report.rows.iter().map(|r| r.bound_tokens_per_second.max(r.row.figure.high)).fold(1e-9, f64::max) * 1.1;
    let x = |share: u32| LEFT + WIDTH * f64::from(share) / 100.0;
    let y = |rate: f64| bottom - HEIGHT * rate / most;
    let (width, height) = (LEFT + WIDTH + 40.0, bottom + 60.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"{LEFT}\" y=\"28\" font-size=\"16\">{}</text>\n",
        escape(title)
    );
    let mut put = |line: std::fmt::Arguments| writeln!(svg, "{line}").expect("a string takes all");
    for quarter in 0..=4u32 {
        let (share, rate) = (25 * quarter, most * f64::from(quarter) / 4.0);
        put(format_args!(
            "<path d=\"M{:.1} {TOP}V{bottom}M{LEFT} {:.1}h{WIDTH}\" stroke=\"#ddd\"/>",
            x(share),
            y(rate)
        ));
        put(format_args!(
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{share} %</text>",
            x(share),
            bottom + 18.0
        ));
        put(format_args!("<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{rate:.1}</text>", LEFT - 8.0, y(rate) + 4.0));
    }
    let middle = LEFT + WIDTH / 2.0;
    put(format_args!(
        "<text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">of the experts in slots</text>",
        bottom + 42.0
    ));
    let bounds = report.rows.iter().map(|r| r.bound_tokens_per_second).collect::<Vec<_>>();
    let rates = report.rows.iter().map(|r| r.row.figure.median).collect::<Vec<_>>();
    for (i, (name, colour, rates)) in [("bound", "#c33", bounds), ("measured", "#36c", rates)].into_iter().enumerate() {
        let points = report.rows.iter().zip(&rates).map(|(r, rate)| (x(r.share), y(*rate)));
        let line: Vec<String> = points.clone().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        put(format_args!("<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\"/>", line.join(" ")));
        for (x, y) in points {
            put(format_args!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>"));
        }
        let (left, top) = (LEFT + 10.0, TOP + 16.0 * (i + 1) as f64);
        put(format_args!("<text x=\"{left}\" y=\"{top}\" fill=\"{colour}\">{name}, tokens a second</text>"));
    }
    svg + "</svg>\n"
}
