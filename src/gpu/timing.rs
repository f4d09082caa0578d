//! GPU time of each dispatch of a recording.

use super::{Gpu, Recording, Result};
use crate::clock;
use std::ops::Range;
use std::time::Duration;

/// How dispatches are timed, which tells what a time includes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Timing {
    /// Timestamps between the dispatches of one pass, as they run in earnest.
    InPass,
    /// One pass a dispatch, whose beginning and end are stamped (Apple's GPUs among others): without the overlap of
    /// dispatches, and with what a pass costs.
    PassEach,
    /// No timestamps: the slope of wall time over repetitions of the dispatch.
    Slope,
}

/// GPU time of one dispatch.
#[derive(Clone, Debug)]
pub struct DispatchTime {
    pub kernel: String,
    pub time: Duration,
}

/// A query set holds at most 4,096 timestamps.
const MOST_DISPATCHES: usize = 2048;

impl Gpu {
    /// The best way of timing that the device has.
    pub fn timing(&self) -> Timing {
        let features = self.device().features();
        if features.contains(wgpu::Features::TIMESTAMP_QUERY | wgpu::Features::TIMESTAMP_QUERY_INSIDE_PASSES) {
            Timing::InPass
        } else if features.contains(wgpu::Features::TIMESTAMP_QUERY) {
            Timing::PassEach
        } else {
            Timing::Slope
        }
    }

    /// GPU time of each dispatch of a recording, run once ([`Timing::Slope`] repeats each dispatch).
    ///
    /// # Errors
    /// A lost device.
    pub fn blocking_profile(&self, recording: &Recording, timing: Timing) -> Result<Vec<DispatchTime>> {
        let count = recording.dispatches.len();
        let mut times = Vec::with_capacity(count);
        match timing {
            Timing::Slope => {
                for i in 0..count {
                    times.push(self.dispatch_slope(recording, i)?);
                }
            }
            _ => {
                for start in (0..count).step_by(MOST_DISPATCHES) {
                    let range = start..count.min(start + MOST_DISPATCHES);
                    times.extend(self.stamped(recording, range, timing)?);
                }
            }
        }
        let named = recording.dispatches.iter().zip(times);
        Ok(named.map(|(d, time)| DispatchTime { kernel: d.kernel.spec.to_string(), time }).collect())
    }

    fn stamped(&self, recording: &Recording, range: Range<usize>, timing: Timing) -> Result<Vec<Duration>> {
        let dispatches = &recording.dispatches[range];
        let count = 2 * dispatches.len() as u32;
        let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
        let resolved = self.buffer_with("timestamps", u64::from(count) * 8, usage)?;
        let readback = self.scoped("profile", |device| {
            let descriptor = wgpu::QuerySetDescriptor { label: None, ty: wgpu::QueryType::Timestamp, count };
            let queries = device.create_query_set(&descriptor);
            let mut encoder = device.create_command_encoder(&Default::default());
            let stamps = dispatches.iter().zip((0..count).step_by(2));
            if timing == Timing::InPass {
                let mut pass = encoder.begin_compute_pass(&Default::default());
                for (dispatch, first) in stamps {
                    pass.write_timestamp(&queries, first);
                    dispatch.encode(&mut pass, false);
                    pass.write_timestamp(&queries, first + 1);
                }
            } else {
                for (dispatch, first) in stamps {
                    let timestamp_writes = Some(wgpu::ComputePassTimestampWrites {
                        query_set: &queries,
                        beginning_of_pass_write_index: Some(first),
                        end_of_pass_write_index: Some(first + 1),
                    });
                    let descriptor = wgpu::ComputePassDescriptor { label: None, timestamp_writes };
                    dispatch.encode(&mut encoder.begin_compute_pass(&descriptor), false);
                }
            }
            encoder.resolve_query_set(&queries, 0..count, &resolved.buffer, 0);
            self.finish_submit(encoder, &[&resolved], clock::now()).remove(0)
        })?;
        let ticks: Vec<u64> = bytemuck::pod_collect_to_vec(&readback.blocking_take()?);
        let nanos = f64::from(self.queue().get_timestamp_period());
        let time = |t: &[u64]| Duration::from_nanos((t[1].saturating_sub(t[0]) as f64 * nanos) as u64);
        Ok(ticks[..count as usize].chunks_exact(2).map(time).collect())
    }

    /// Wall time of 8 runs of a dispatch less that of 1, over 7.
    fn dispatch_slope(&self, recording: &Recording, index: usize) -> Result<Duration> {
        let timed = |repeats: usize| -> Result<Duration> {
            let commands = self.scoped("profile", |device| {
                let mut encoder = device.create_command_encoder(&Default::default());
                {
                    let mut pass = encoder.begin_compute_pass(&Default::default());
                    for _ in 0..repeats {
                        recording.dispatches[index].encode(&mut pass, false);
                    }
                }
                encoder.finish()
            })?;
            self.blocking_wait()?;
            let start = clock::now();
            self.scoped("profile", |_| self.queue().submit([commands]))?;
            self.blocking_wait()?;
            Ok(start.elapsed())
        };
        let once = timed(1)?;
        Ok(timed(8)?.saturating_sub(once) / 7)
    }
}
