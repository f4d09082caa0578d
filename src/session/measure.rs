//! What measurements need of a session: the recordings of its steps, and their times on the device.

use super::stage::Ending;
use super::state::State;
use super::{Result, Session};
use crate::gpu::{DispatchTime, Timing};

impl Session {
    /// GPU time of each dispatch of [`Session::decode_recordings`], run once where `positions` are cached, whatever they
    /// hold: the cache is as good as empty afterwards.
    ///
    /// # Errors
    /// A lost device.
    pub fn blocking_profile(&mut self, positions: usize, timing: Timing) -> Result<Vec<DispatchTime>> {
        self.clear();
        let context = self.context();
        let position = positions.min(context - 1);
        self.make_room(position + 1, true)?;
        self.stages.iter_mut().try_for_each(|stage| stage.fill_rope(position + 1))?;
        let state = State { position: position as u32, context: context as u32, limit: u32::MAX, ..State::default() };
        if self.model().weights_move() {
            // What the step needs is there when it runs again.
            self.blocking_run((1, Ending::Sample), position + 1, state)?;
        }
        let mut times = Vec::new();
        for stage in &self.stages {
            stage.write_state(&state)?;
            times.extend(stage.gpu().blocking_profile(stage.recording((1, Ending::Sample)), timing)?);
        }
        Ok(times)
    }
}
