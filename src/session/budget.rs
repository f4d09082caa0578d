//! How much GPU time an app lends.

use std::time::Duration;

/// GPU time that a session may take: what it has given to the device and has not been seen to end stays within it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Budget(Option<Duration>);

impl Budget {
    /// Of the idle rest of a frame, what is left idle: frames differ, and a budget is an estimate.
    const SLACK: u32 = 16;

    /// So much; where the next slice of a step is longer, that slice alone.
    pub fn gpu_time(time: Duration) -> Budget {
        Budget(Some(time))
    }

    /// What the app's own work, `app_gpu_time` a frame, leaves idle of a frame's `period`, less a sixteenth of the period.
    pub fn fill(period: Duration, app_gpu_time: Duration) -> Budget {
        Budget(Some(period.saturating_sub(app_gpu_time + period / Budget::SLACK)))
    }

    /// All that can be queued, for a program that draws nothing. Submits stay bounded all the same.
    pub fn unlimited() -> Budget {
        Budget(None)
    }

    /// So much at once; `None`: without limit.
    pub fn time(self) -> Option<Duration> {
        self.0
    }

    pub(super) fn seconds(self) -> f64 {
        self.0.map_or(f64::INFINITY, |time| time.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_idle_rest_of_a_frame_is_filled_but_for_a_sixteenth() {
        let ms = Duration::from_millis;
        assert_eq!(Budget::fill(ms(16), ms(5)), Budget::gpu_time(ms(10)));
        assert_eq!(Budget::fill(ms(16), ms(20)).time(), Some(Duration::ZERO));
        assert_eq!(Budget::unlimited().seconds(), f64::INFINITY);
    }
}
