//! Kernels at the shapes of real models, each held against its twin, then timed against the device's limits.

mod attention;
mod compressed;
mod experts;
mod linear;
mod operators;
mod rig;
mod rows;
mod sizes;
mod weights;

pub use operators::{Case, Selection};

use super::{Error, Result, Row, Summary};
use crate::gpu::{DeviceClass, DeviceProfile, Gpu, KernelSpec, Tier, Timing};
use crate::ops::Arithmetic;
use rig::{Made, Rig};
use serde::Serialize;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// What must be moved and computed at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// Bytes that no cache should hold: weights as in a file, keys and values, states.
    pub kept: u64,
    /// Those, and inputs and outputs once.
    pub bytes: u64,
    /// Operations, a multiply-add being two.
    pub flops: u64,
}

/// What bounds a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    Bandwidth,
    Flops,
    /// It moves and computes less than its launches take.
    Launches,
}

/// The operations a second that a device was measured to do in an arithmetic; none that it has not.
pub fn rate(limits: &DeviceProfile, arithmetic: Arithmetic) -> Option<f64> {
    match arithmetic {
        Arithmetic::F32 => Some(limits.flops_per_second),
        Arithmetic::F16 => limits.f16_flops_per_second,
        Arithmetic::Dot => Some(limits.dot_ops_per_second),
        Arithmetic::Matrix => limits.matrix_flops_per_second,
    }
}

impl Work {
    /// The least seconds of so many dispatches at a device's limits.
    fn bound(&self, limits: &DeviceProfile, arithmetic: Arithmetic, dispatches: usize) -> (f64, Limit) {
        let moving = self.bytes as f64 / limits.stream_bytes_per_second;
        let computing = self.flops as f64 / rate(limits, arithmetic).unwrap_or(limits.flops_per_second);
        let launching = dispatches as f64 * limits.dispatch_seconds;
        match moving.max(computing) {
            most if launching > most => (launching, Limit::Launches),
            most if moving == most => (moving, Limit::Bandwidth),
            _ => (computing, Limit::Flops),
        }
    }
}

/// What an operator reaches, or one kernel of those that it takes.
#[derive(Clone, Debug, Serialize)]
pub struct KernelRow {
    /// Seconds of one run on the device.
    #[serde(flatten)]
    pub row: Row,
    pub op: &'static str,
    /// The shader, in a row of one of an operator's kernels.
    pub kernel: Option<String>,
    pub tier: String,
    /// Of its matrix products.
    pub arithmetic: String,
    /// What must be moved and computed at least.
    pub bytes: u64,
    pub flops: u64,
    pub bytes_per_second: f64,
    pub flops_per_second: f64,
    pub limit: Limit,
    pub fraction_of_limit: f64,
    /// Inputs that were rotated.
    pub copies: usize,
    /// Of the operator, against the twin, over a sample of the outputs.
    pub nmse: f64,
}

/// Measures kernels.
pub struct KernelBench<'g> {
    pub gpu: &'g Gpu,
    /// Each is measured in kernels of its own; what would be measured twice is once.
    pub tiers: Vec<Setting>,
    pub limits: DeviceProfile,
    /// Bytes of weights, or of keys and values, in all copies of one case.
    pub memory: u64,
    /// Spent on timing one case, after it was prepared.
    pub time: Duration,
}

/// How kernels are chosen.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// The ceiling.
    pub tier: Tier,
    /// The arithmetic of products, wherever there is a kernel of it; else what the limits choose.
    pub force: Option<Arithmetic>,
}

impl Setting {
    /// The kernels that a tier has and those below lack.
    pub fn own(tier: Tier) -> Setting {
        let force = Arithmetic::ALL.into_iter().find(|a| a.tier() == tier).unwrap_or(Arithmetic::F32);
        Setting { tier, force: Some(force) }
    }
}

const MOST_COPIES: u64 = 64;
/// Of samples of one case.
const LEAST_SAMPLES: usize = 5;
const MOST_SAMPLES: usize = 2000;
/// Estimated seconds of one submit, for kernels at a tenth of the limit.
const MOST_SUBMIT: f64 = 1.0;

impl KernelBench<'_> {
    /// Memory that cases may take where nobody says.
    pub fn default_memory(class: DeviceClass) -> u64 {
        match class {
            DeviceClass::Gpu => 512 << 20,
            DeviceClass::Cpu => 48 << 20,
        }
    }

    fn copies(&self, work: &Work) -> usize {
        let seconds = work.bound(&self.limits, Arithmetic::F32, 0).0;
        let by_time = (MOST_SUBMIT / (10.0 * seconds)).clamp(1.0, MOST_COPIES as f64) as usize;
        ((self.memory / work.kept.max(1)).clamp(1, MOST_COPIES) as usize).min(by_time)
    }

    /// Checks and times one case on every tier. What fails on one is told beside the rows of the others: a result that is
    /// not the twin's, shapes that no kernel takes, no memory.
    pub fn run(&self, case: &Case) -> (Vec<KernelRow>, Vec<Error>) {
        let made = match case.make(self.gpu, self.copies(&case.work)) {
            Ok(made) => made,
            Err(error) => return (vec![], vec![error]),
        };
        let (mut rows, mut errors, mut seen) = (Vec::new(), Vec::new(), BTreeSet::new());
        for setting in &self.tiers {
            match self.on(case, &made, *setting, &mut seen) {
                Ok(more) => rows.extend(more),
                Err(error) => errors.push(error),
            }
        }
        (rows, errors)
    }

    fn on(
        &self,
        case: &Case,
        made: &Made,
        setting: Setting,
        seen: &mut BTreeSet<Vec<KernelSpec>>,
    ) -> Result<Vec<KernelRow>> {
        let name = match self.tiers.len() {
            1 => case.name(),
            _ => format!("{} @ {}", case.name(), setting.tier),
        };
        let rig = Rig::new(self.gpu, made, setting, self.limits, &name)?;
        if !seen.insert(rig.specs().cloned().collect()) {
            return Ok(vec![]);
        }
        let nmse = rig.check(made)?;
        let times = self.time(&rig, made)?;
        rig.ran()?;
        let row = |name: String, kernel, arithmetic, work: Work, samples: &[f64], dispatches| {
            let figure = Summary::of(samples);
            let (bound, limit) = work.bound(&self.limits, arithmetic, dispatches);
            KernelRow {
                row: Row { name, unit: "s".into(), figure },
                op: case.op,
                kernel,
                tier: setting.tier.to_string(),
                arithmetic: arithmetic.to_string(),
                bytes: work.bytes,
                flops: work.flops,
                bytes_per_second: work.bytes as f64 / figure.median,
                flops_per_second: work.flops as f64 / figure.median,
                limit,
                fraction_of_limit: bound / figure.median,
                copies: made.copies,
                nmse,
            }
        };
        let dispatches = rig.specs().count();
        let sums: Vec<f64> = times.iter().map(|each| each.iter().sum()).collect();
        let mut rows = vec![row(name.clone(), None, rig.arithmetic(), case.work, &sums, dispatches)];
        // An operator of one kernel is that kernel, and a slope tells none apart.
        if dispatches > 1 && times[0].len() == dispatches {
            for (at, label) in rig.labels().into_iter().enumerate() {
                let samples: Vec<f64> = times.iter().map(|each| each[at]).collect();
                let (arithmetic, work) = rig.part(at, made);
                rows.push(row(format!("{name} / {label}"), Some(label), arithmetic, work, &samples, 1));
            }
        }
        Ok(rows)
    }

    /// Seconds of single runs, of each dispatch or of all; the first round warms up.
    fn time(&self, rig: &Rig, made: &Made) -> Result<Vec<Vec<f64>>> {
        let timing = self.gpu.timing();
        if timing == Timing::Slope {
            return Ok(self.slopes(rig, made)?.into_iter().map(|seconds| vec![seconds]).collect());
        }
        let dispatches = rig.specs().count();
        // What the clock could not tell from nothing counts as its step.
        let round = || -> Result<Vec<Vec<f64>>> {
            let times = self.gpu.blocking_profile(&rig.recording, timing)?;
            let seconds: Vec<f64> = times.iter().map(|t| t.time.as_secs_f64().max(1e-9)).collect();
            Ok(seconds.chunks_exact(dispatches).map(<[f64]>::to_vec).collect())
        };
        round()?;
        let (start, mut samples) = (Instant::now(), Vec::new());
        while samples.len() < LEAST_SAMPLES || (start.elapsed() < self.time && samples.len() < MOST_SAMPLES) {
            samples.extend(round()?);
        }
        Ok(samples)
    }

    /// Wall time of 2n rounds less that of n, over n: all copies in turn, so that none stays cached.
    fn slopes(&self, rig: &Rig, made: &Made) -> Result<Vec<f64>> {
        let timed = |rounds: usize| -> Result<f64> {
            self.gpu.blocking_wait()?;
            let start = Instant::now();
            for _ in 0..rounds {
                self.gpu.submit(&rig.recording, 0..rig.recording.dispatches.len(), &[])?;
            }
            self.gpu.blocking_wait()?;
            Ok(start.elapsed().as_secs_f64())
        };
        let mut rounds = 1;
        while timed(rounds)? < self.time.as_secs_f64() / 16.0 && rounds < 1 << 12 {
            rounds *= 2;
        }
        let slope = |_| -> Result<f64> {
            let (single, double) = (timed(rounds)?, timed(2 * rounds)?);
            let difference = if double > single { double - single } else { double / 2.0 };
            Ok(difference / (rounds * made.copies) as f64)
        };
        (0..LEAST_SAMPLES).map(slope).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tiers_own_kernels_are_those_of_its_arithmetic() {
        let own = |tier| Setting::own(tier).force.unwrap();
        assert_eq!(
            [Tier::Core, Tier::Subgroup, Tier::F16].map(own),
            [Arithmetic::F32, Arithmetic::F32, Arithmetic::F16]
        );
        assert_eq!([Tier::Dot, Tier::Matrix].map(own), [Arithmetic::Dot, Arithmetic::Matrix]);
    }

    #[test]
    fn the_longest_of_moving_computing_and_launching_bounds() {
        let limits = DeviceProfile {
            stream_bytes_per_second: 100.0,
            flops_per_second: 1000.0,
            f16_flops_per_second: Some(2000.0),
            matrix_flops_per_second: None,
            dot_ops_per_second: 4000.0,
            dispatch_seconds: 0.5,
        };
        let bound = |bytes, flops, arithmetic| Work { kept: 0, bytes, flops }.bound(&limits, arithmetic, 2);
        assert_eq!(bound(400, 1000, Arithmetic::F32), (4.0, Limit::Bandwidth));
        assert_eq!(bound(400, 8000, Arithmetic::F32), (8.0, Limit::Flops));
        assert_eq!(bound(300, 8000, Arithmetic::F16), (4.0, Limit::Flops));
        assert_eq!(bound(300, 8000, Arithmetic::Dot), (3.0, Limit::Bandwidth));
        assert_eq!(bound(10, 10, Arithmetic::F32), (1.0, Limit::Launches));
    }
}
