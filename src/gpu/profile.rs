//! The device's measured limits, against which every speed is told.

use super::{Call, Cost, DeviceClass, Error, Gpu, Grid, KernelSpec, Recorder, Recording, Result, Tier, View, params};
use crate::clock;
use std::time::Duration;

params!(StreamParams { quads: u32, per_group: u32 });
params!(RateParams { rounds: u32, start: u32, factor: u32 });

/// What a device reaches at best: the terms that bound every kernel.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct DeviceProfile {
    /// Bytes a second of a kernel that only reads.
    pub stream_bytes_per_second: f64,
    /// f32 operations a second of a kernel that only multiplies and adds, counted as two.
    pub flops_per_second: f64,
    /// The same in f16, four a vector; none without f16.
    pub f16_flops_per_second: Option<f64>,
    /// The same of cooperative matrices, f16 with sums in f32; none without them.
    pub matrix_flops_per_second: Option<f64>,
    /// Operations a second of a kernel of packed dot products of four i8, counted as eight. No feature says whether they
    /// are hardware: this against the rate of f32 does.
    pub dot_ops_per_second: f64,
    /// Seconds that a dispatch takes on the device which only waits for the one before it.
    pub dispatch_seconds: f64,
}

/// Time spent on each measurement.
const BUDGET: Duration = Duration::from_millis(150);

/// Steps of an invocation of `rate`, and what its dot products multiply by.
const ROUNDS: u32 = 1024;
const FACTOR: u32 = 0x7f03_fe05;

/// What the lanes of one invocation of `rate` are together after its dot products.
fn sum_of_dots() -> u32 {
    let dot = |a: i32, b: u32| -> i32 {
        a.to_le_bytes().iter().zip(b.to_le_bytes()).map(|(a, b)| i32::from(*a as i8) * i32::from(b as i8)).sum()
    };
    let lane = |start: i32| (0..ROUNDS).fold(start, |x, _| dot(x, FACTOR) + 1);
    (0..16).fold(0, |sum: u32, start| sum.wrapping_add(lane(start) as u32))
}

impl Gpu {
    /// Measures the device, within about a second. Wants the device idle, and 256 MiB of it (32 MiB of a software
    /// device).
    ///
    /// # Errors
    /// A device that is lost, or that computes a wrong sum.
    pub fn blocking_measure(&self) -> Result<DeviceProfile> {
        Ok(DeviceProfile {
            stream_bytes_per_second: self.measure_stream()?,
            flops_per_second: self.measure_rate(None)?,
            f16_flops_per_second: match self.require(Tier::F16) {
                Ok(()) => Some(self.measure_rate(Some("F16"))?),
                Err(_) => None,
            },
            matrix_flops_per_second: self.caps().matrix.map(|side| self.measure_matrices(side)).transpose()?,
            dot_ops_per_second: self.measure_rate(Some("DOT"))?,
            dispatch_seconds: self.measure_dispatch()?,
        })
    }

    /// Limits to plan with until the device is measured: low ones, so that submits come out short.
    pub fn assumed_limits(&self) -> DeviceProfile {
        let (stream_bytes_per_second, flops_per_second, dispatch_seconds) = match self.caps().class {
            DeviceClass::Gpu => (50e9, 500e9, 10e-6),
            DeviceClass::Cpu => (1e9, 5e9, 50e-6),
        };
        DeviceProfile {
            stream_bytes_per_second,
            flops_per_second,
            f16_flops_per_second: None,
            matrix_flops_per_second: None,
            dot_ops_per_second: flops_per_second,
            dispatch_seconds,
        }
    }

    /// Bytes a second that a kernel reads of the host's memory, which the host writes directly; `None` where the backend has none.
    pub fn blocking_measure_in_place(&self) -> Result<Option<f64>> {
        let rate = || self.measure_reads(|bytes| Ok(self.mapped_on_host("stream", bytes)?.0));
        self.has_mapped().then(rate).transpose()
    }

    fn measure_stream(&self) -> Result<f64> {
        self.measure_reads(|bytes| self.buffer("stream", bytes))
    }

    /// Bytes a second that a kernel reads of a buffer of so many bytes.
    fn measure_reads(&self, buffer: impl FnOnce(u64) -> Result<View>) -> Result<f64> {
        // A software device runs a workgroup on one core: few and long ones suit it, of its subgroup's size.
        let cpu = self.caps().class == DeviceClass::Cpu;
        let (most, wg) = if cpu { (32 << 20, 8) } else { (256 << 20, 256) };
        let bytes = self.caps().max_binding.min(self.caps().max_buffer).min(most) / 16 * 16;
        let words = buffer(bytes)?;
        let quads = bytes / 16;
        let per_group = if cpu { quads.div_ceil(64) } else { wg * 16 };
        let groups = quads.div_ceil(per_group);
        let sums = self.buffer("stream sums", groups * 4)?;
        let params = StreamParams { quads: quads as u32, per_group: per_group as u32 };
        let grid = Grid::linear(groups, 1);
        let spec = KernelSpec::new("stream").size("WG", wg as u32);
        let fill = spec.clone().flag("FILL", true);
        let mut recorder = Recorder::new(self, sums.clone());
        recorder.call(Call { spec: fill, bind: &[("words", &words)], params, grid, cost: Cost::default() })?;
        let bind: &[(&str, &View)] = &[("words", &words), ("sums", &sums)];
        recorder.call(Call { spec: spec.clone(), bind, params, grid, cost: Cost::default() })?;
        let checked = recorder.finish()?;
        self.submit(&checked, 0..2, &[])?;
        let sum = self.blocking_read::<u32>(&sums)?.iter().take(groups as usize).fold(0u32, |a, b| a.wrapping_add(*b));
        let expected = (0..(quads * 4) as u32).fold(0u32, |a, i| a.wrapping_add(i.wrapping_mul(2_654_435_761)));
        self.expect("the sum of a stream", sum, expected)?;

        let seconds = self.slope(|count| {
            let mut recorder = Recorder::new(self, sums.clone());
            for _ in 0..count {
                recorder.call(Call { spec: spec.clone(), bind, params, grid, cost: Cost::default() })?;
            }
            recorder.finish()
        })?;
        Ok(bytes as f64 / seconds)
    }

    /// Operations a second in f32, or in the arithmetic of `flag`.
    fn measure_rate(&self, flag: Option<&'static str>) -> Result<f64> {
        let cpu = self.caps().class == DeviceClass::Cpu;
        let (groups, wg) = if cpu { (64, 8) } else { (4096, 256) };
        let sums = self.buffer("rate", groups * 4)?;
        let spec = KernelSpec::new("rate").size("WG", wg);
        let spec = flag.into_iter().fold(spec, |spec, flag| spec.flag(flag, true));
        let params = RateParams { rounds: ROUNDS, start: 0, factor: FACTOR };
        let record = |count| {
            let mut recorder = Recorder::new(self, sums.clone());
            for _ in 0..count {
                let (spec, grid) = (spec.clone(), Grid::linear(groups, 1));
                recorder.call(Call { spec, bind: &[("sums", &sums)], params, grid, cost: Cost::default() })?;
            }
            recorder.finish()
        };
        let seconds = self.slope(record)?;
        // An operation is a multiplication or an addition; of dot products four and four.
        let (lanes, operations) = if flag == Some("DOT") { (sum_of_dots(), 8.0) } else { (16 * 2, 2.0) };
        let found = self.blocking_read::<u32>(&sums)?[0];
        self.expect("a sum of multiply-adds", found, lanes.wrapping_mul(wg))?;
        Ok(f64::from(ROUNDS) * 16.0 * operations * f64::from(wg) * groups as f64 / seconds)
    }

    /// Operations a second of cooperative matrices of `side` x `side`.
    fn measure_matrices(&self, side: u32) -> Result<f64> {
        let groups = if self.caps().class == DeviceClass::Cpu { 64 } else { 2048 };
        let subgroups = 2;
        let sums = self.buffer("rate", groups * 4)?;
        let wg = subgroups * self.caps().subgroup.1;
        let spec = KernelSpec::new("rate_matrix").size("WG", wg).flag("MATRIX", true).flag("SIDE_16", side == 16);
        let params = RateParams { rounds: ROUNDS, start: 0, factor: 0 };
        let record = |count| {
            let mut recorder = Recorder::new(self, sums.clone());
            for _ in 0..count {
                let (spec, grid) = (spec.clone(), Grid::linear(groups, 1));
                recorder.call(Call { spec, bind: &[("sums", &sums)], params, grid, cost: Cost::default() })?;
            }
            recorder.finish()
        };
        let seconds = self.slope(record)?;
        // What a subgroup's four fragments of side * side sums are together; how many subgroups there were shows in it.
        let each = 4 * side * side * (ROUNDS * side / 256);
        let found = self.blocking_read::<u32>(&sums)?[0];
        let ran = (found / each).clamp(subgroups, wg / self.caps().subgroup.0.max(1));
        self.expect("a sum of products of matrices", found, ran * each)?;
        let flops = f64::from(ROUNDS) * 4.0 * 2.0 * f64::from(side).powi(3);
        Ok(flops * f64::from(ran) * groups as f64 / seconds)
    }

    fn measure_dispatch(&self) -> Result<f64> {
        let counter = self.buffer("counter", 4)?;
        let mut asked = 0;
        let seconds = self.slope(|count| {
            // Each recording runs once.
            asked += count as u32;
            let mut recorder = Recorder::new(self, counter.clone());
            for _ in 0..count {
                let params = StreamParams { quads: 1, per_group: 0 };
                let spec = KernelSpec::new("stream").flag("TICK", true);
                let grid = Grid([1, 1, 1]);
                recorder.call(Call { spec, bind: &[("sums", &counter)], params, grid, cost: Cost::default() })?;
            }
            recorder.finish()
        })?;
        self.expect("a count of dependent dispatches", self.blocking_read::<u32>(&counter)?[0], asked)?;
        Ok(seconds)
    }

    fn expect(&self, what: &str, found: u32, expected: u32) -> Result<()> {
        if found == expected {
            return Ok(());
        }
        let message = format!("{what} is {found} instead of {expected}; the driver computes wrongly");
        Err(Error::Rejected { what: "measuring".into(), message })
    }

    /// Seconds of one repetition: the difference between 2n and n of them over n, so that what a submit costs once drops
    /// out. n doubles until a run is long enough to tell; then both are the least of what the budget allows, since
    /// whatever else the machine does only adds.
    fn slope(&self, mut record: impl FnMut(usize) -> Result<Recording>) -> Result<f64> {
        let start = clock::now();
        let mut count = 2;
        self.timed(&record(count)?)?;
        while self.timed(&record(count)?)? < BUDGET / 16 && count < 1 << 12 {
            count *= 2;
        }
        let (mut single, mut double) = (Duration::MAX, Duration::MAX);
        for round in 0.. {
            single = single.min(self.timed(&record(count)?)?);
            double = double.min(self.timed(&record(2 * count)?)?);
            if round >= 2 && start.elapsed() > BUDGET {
                break;
            }
        }
        let seconds = double.saturating_sub(single).as_secs_f64() / count as f64;
        // Too noisy for a difference: the whole of the longer run.
        Ok(if seconds > 0.0 { seconds } else { double.as_secs_f64() / (2 * count) as f64 })
    }

    /// Wall time from the submit of an encoded recording to its end.
    fn timed(&self, recording: &Recording) -> Result<Duration> {
        let commands = self.scoped("measure", |device| {
            let mut encoder = device.create_command_encoder(&Default::default());
            recording.encode(0..recording.dispatches.len(), &mut encoder.begin_compute_pass(&Default::default()));
            encoder.finish()
        })?;
        self.blocking_wait()?;
        let start = clock::now();
        self.scoped("measure", |_| self.queue().submit([commands]))?;
        self.blocking_wait()?;
        Ok(start.elapsed())
    }
}
