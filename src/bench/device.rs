//! The device's own limits, each by work that is checked.

use super::disk::from_disk;
use super::{Error, Random, Result, Row, Summary};
use crate::gpu::{Call, Cost, DeviceClass, DeviceProfile, Gpu, Grid, KernelSpec, Recorder, Recording, View, params};
use std::path::Path;
use std::time::{Duration, Instant};

params!(TickParams { quads: u32, per_group: u32 });

/// One limit.
#[derive(Clone, Debug, serde::Serialize)]
pub struct DeviceRow {
    #[serde(flatten)]
    pub row: Row,
    /// How it is measured, in words.
    pub how: &'static str,
}

/// Spent on each measurement of this file.
const BUDGET: Duration = Duration::from_millis(250);
const LEAST_SAMPLES: usize = 5;
const MOST_SAMPLES: usize = 1000;
/// Dispatches whose recording on the host is timed at once.
const DISPATCHES: usize = 1000;

/// Measures everything, from the disk if there is a `file`, `repetitions` times where a measurement gives one number only. Takes a few seconds.
///
/// # Errors
/// A device that is lost, or that computes, copies or counts wrongly.
pub fn device(gpu: &Gpu, repetitions: usize, file: Option<&Path>) -> Result<Vec<DeviceRow>> {
    let profiles: Vec<DeviceProfile> =
        (0..repetitions.max(1)).map(|_| gpu.blocking_measure()).collect::<crate::gpu::Result<_>>()?;
    let of = |name, unit, how, of: fn(&DeviceProfile) -> f64| {
        row(name, unit, how, &profiles.iter().map(of).collect::<Vec<f64>>())
    };
    let mut rows = vec![
        of("stream read", "B/s", "a kernel that sums a buffer", |p| p.stream_bytes_per_second),
        of("f32 multiply-add", "FLOP/s", "a kernel of independent fused multiply-adds, two each", |p| {
            p.flops_per_second
        }),
        of(
            "packed integer dot",
            "OP/s",
            "a kernel of independent dot products of four i8, eight operations each",
            |p| p.dot_ops_per_second,
        ),
        of("dependent dispatch", "s", "a dispatch of one invocation that needs the one before it", |p| {
            p.dispatch_seconds
        }),
    ];
    // What not every device has.
    let mut insert = |name, how, of: fn(&DeviceProfile) -> Option<f64>| {
        let samples: Vec<f64> = profiles.iter().filter_map(of).collect();
        if !samples.is_empty() {
            rows.insert(2, row(name, "FLOP/s", how, &samples));
        }
    };
    let how = "a kernel of products of square fragments, f16 with sums in f32, four at a time";
    insert("cooperative matrices", how, |p| p.matrix_flops_per_second);
    let how = "as f32's, in vectors of four f16, which hardware may pair";
    insert("f16 multiply-add", how, |p| p.f16_flops_per_second);
    if let Some(rate) = gpu.blocking_measure_in_place()? {
        let how = "the same of memory that the host writes directly: what reading experts in place would reach";
        rows.insert(1, row("stream read in place", "B/s", how, &[rate]));
    }
    let bytes = match gpu.caps().class {
        DeviceClass::Gpu => 256 << 20,
        DeviceClass::Cpu => 32 << 20,
    };
    let bytes = gpu.caps().max_binding.min(gpu.caps().max_buffer).min(bytes) / 16 * 16;
    let (upload, copy) = transfers(gpu, bytes)?;
    rows.push(row("copy", "B/s", "buffer to buffer on the device, bytes read and bytes written", &copy));
    rows.push(row("upload", "B/s", "host memory to a buffer, until the device has it", &upload));
    if let Some(file) = file {
        rows.push(from_disk(gpu, file, bytes)?);
    }
    let (independent, passes) = launches(gpu)?;
    rows.push(row("independent dispatch", "s", "a dispatch of one invocation among others, in one pass", &independent));
    let how = "a dispatch of one invocation that needs the one before it, a pass each";
    rows.push(row("dependent dispatch, a pass each", "s", how, &passes));
    rows.push(row(
        "submit round trip",
        "s",
        "one small dispatch, from its submit until the host knows",
        &round_trips(gpu)?,
    ));
    rows.push(row("map latency", "s", "4 bytes copied, mapped and read by the host", &map(gpu)?));
    let (recording, encoding) = host(gpu)?;
    rows.push(row("recording on the host", "s", "a dispatch into a Recording, with its bind group", &recording));
    rows.push(row("encoding on the host", "s", "a recorded dispatch into a pass, for each submit", &encoding));
    Ok(rows)
}

pub(super) fn row(name: &str, unit: &str, how: &'static str, samples: &[f64]) -> DeviceRow {
    DeviceRow { row: Row { name: name.into(), unit: unit.into(), figure: Summary::of(samples) }, how }
}

/// Samples until the budget is spent; the first is thrown away.
pub(super) fn sampled(mut run: impl FnMut() -> Result<f64>) -> Result<Vec<f64>> {
    run()?;
    let (start, mut samples) = (Instant::now(), Vec::new());
    while samples.len() < LEAST_SAMPLES || (start.elapsed() < BUDGET && samples.len() < MOST_SAMPLES) {
        samples.push(run()?);
    }
    Ok(samples)
}

fn expect<T: PartialEq>(name: &str, found: T, expected: T, what: &str) -> Result<()> {
    if found == expected { Ok(()) } else { Err(Error::Wrong { name: name.into(), what: what.into() }) }
}

/// Bytes a second into a buffer, and from it to another; what arrived is read back.
fn transfers(gpu: &Gpu, bytes: u64) -> Result<(Vec<f64>, Vec<f64>)> {
    let (from, to) = (gpu.buffer("upload", bytes)?, gpu.buffer("copy", bytes)?);
    let mut random = Random::new(bytes);
    let data: Vec<u64> = (0..bytes / 8).map(|_| random.word()).collect();
    let upload = sampled(|| {
        let start = Instant::now();
        gpu.write(&from, 0, bytemuck::cast_slice(&data))?;
        gpu.flush()?;
        gpu.blocking_wait()?;
        Ok(bytes as f64 / start.elapsed().as_secs_f64())
    })?;
    let copy = sampled(|| {
        let rounds = 4;
        let start = Instant::now();
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        for _ in 0..rounds {
            encoder.copy_buffer_to_buffer(&from.buffer, 0, &to.buffer, 0, bytes);
        }
        gpu.queue().submit([encoder.finish()]);
        gpu.blocking_wait()?;
        Ok((2 * rounds * bytes) as f64 / start.elapsed().as_secs_f64())
    })?;
    let end = bytes / 2 / 16 * 16;
    for (at, size) in [(0, 4096), (end, 4096), (bytes - 4096, 4096)] {
        let found: Vec<u64> = gpu.blocking_read(&to.slice(at, size))?;
        let expected = &data[at as usize / 8..][..size as usize / 8];
        expect("copy", &found[..], expected, "the copy differs from what was uploaded")?;
    }
    Ok((upload, copy))
}

/// A dispatch that adds 1 to it for each of `counters`.
fn ticks<'a>(gpu: &Gpu, counters: impl IntoIterator<Item = &'a View>) -> Result<Recording> {
    let mut counters = counters.into_iter().peekable();
    let state = counters.peek().expect("a counter at least");
    let mut recorder = Recorder::new(gpu, (*state).clone());
    for counter in counters {
        recorder.call(Call {
            spec: KernelSpec::new("stream").flag("TICK", true),
            bind: &[("sums", counter)],
            params: TickParams { quads: 1, per_group: 0 },
            grid: Grid([1, 1, 1]),
            cost: Cost::default(),
        })?;
    }
    Ok(recorder.finish()?)
}

/// Seconds a dispatch, without what its submit costs: of such as touch nothing of each other's, in one pass, and of such as
/// wait for each other, in a pass each.
fn launches(gpu: &Gpu) -> Result<(Vec<f64>, Vec<f64>)> {
    let count = DISPATCHES / 4;
    let counters = (0..count).map(|_| gpu.buffer("counter", 4)).collect::<crate::gpu::Result<Vec<View>>>()?;
    let independent = ticks(gpu, &counters)?;
    let dependent = ticks(gpu, std::iter::repeat_n(&counters[0], count))?;
    // Wall time of `rounds` times all dispatches, in one pass or in many.
    let timed = |recording: &Recording, rounds: usize, passes: bool| -> Result<f64> {
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        for _ in 0..rounds {
            let each = if passes { 1 } else { count };
            for first in (0..count).step_by(each) {
                recording.encode(first..first + each, &mut encoder.begin_compute_pass(&Default::default()));
            }
        }
        let commands = encoder.finish();
        let start = Instant::now();
        gpu.queue().submit([commands]);
        gpu.blocking_wait()?;
        Ok(start.elapsed().as_secs_f64())
    };
    let mut runs = 0;
    let mut slope = |recording: &Recording, passes: bool| {
        sampled(|| {
            runs += 3;
            let (single, double) = (timed(recording, 1, passes)?, timed(recording, 2, passes)?);
            // Too noisy for a difference: the whole of the longer run.
            Ok(if double > single { double - single } else { double / 2.0 } / count as f64)
        })
    };
    let alone = slope(&independent, false)?;
    let chained = slope(&dependent, true)?;
    let (first, last) =
        (gpu.blocking_read::<u32>(&counters[0])?[0], gpu.blocking_read::<u32>(&counters[count - 1])?[0]);
    // The last counter ticks in the independent rounds alone, the first in all.
    let rounds = (runs - last) * count as u32 + last;
    expect("dispatches", first, rounds, "the device ran another number of dispatches")?;
    Ok((alone, chained))
}

fn round_trips(gpu: &Gpu) -> Result<Vec<f64>> {
    let counter = gpu.buffer("counter", 4)?;
    let recording = ticks(gpu, [&counter])?;
    let mut runs = 0;
    let samples = sampled(|| {
        runs += 1;
        let start = Instant::now();
        gpu.submit(&recording, 0..1, &[])?;
        gpu.blocking_wait()?;
        Ok(start.elapsed().as_secs_f64())
    })?;
    let found = gpu.blocking_read::<u32>(&counter)?[0];
    expect("submit round trip", found, runs, "the device ran another number of dispatches")?;
    Ok(samples)
}

fn map(gpu: &Gpu) -> Result<Vec<f64>> {
    let view = gpu.upload("word", &[0xfeed_beefu32, 0, 0, 0])?;
    let word = view.slice(0, 4);
    sampled(|| {
        let start = Instant::now();
        let found = gpu.blocking_read::<u32>(&word)?[0];
        let seconds = start.elapsed().as_secs_f64();
        expect("map latency", found, 0xfeed_beef, "another word came back")?;
        Ok(seconds)
    })
}

/// Seconds a dispatch: into a recording, and from it into a pass.
fn host(gpu: &Gpu) -> Result<(Vec<f64>, Vec<f64>)> {
    let counter = gpu.buffer("counter", 4)?;
    let each = |time: Duration| time.as_secs_f64() / DISPATCHES as f64;
    let recording = sampled(|| {
        let start = Instant::now();
        ticks(gpu, std::iter::repeat_n(&counter, DISPATCHES))?;
        Ok(each(start.elapsed()))
    })?;
    let recorded = ticks(gpu, std::iter::repeat_n(&counter, DISPATCHES))?;
    let mut runs = 0;
    let encoding = sampled(|| {
        runs += 1;
        let before = gpu.encode_time();
        gpu.submit(&recorded, 0..DISPATCHES, &[])?;
        gpu.blocking_wait()?;
        Ok(each(gpu.encode_time() - before))
    })?;
    let found = gpu.blocking_read::<u32>(&counter)?[0] as usize;
    expect("encoding on the host", found, runs * DISPATCHES, "the device ran another number of dispatches")?;
    Ok((recording, encoding))
}
