//! What measurements need of a session: the recordings of its steps, and their times on the device.

use super::engine::Ending;
use super::state::State;
use super::{Result, Session};
use crate::gpu::{DispatchTime, Timing};

impl Session {
    /// GPU time of each dispatch of [`Session::decode_recording`], run once where `positions` are cached, whatever they
    /// hold: the cache is as good as empty afterwards.
    ///
    /// # Errors
    /// A lost device.
    pub fn blocking_profile(&mut self, positions: usize, timing: Timing) -> Result<Vec<DispatchTime>> {
        self.clear();
        let context = self.context();
        let position = positions.min(context - 1);
        self.make_room(position + 1)?;
        self.fill_rope(position + 1)?;
        let state = State { position: position as u32, context: context as u32, limit: u32::MAX, ..State::default() };
        if self.model().weights_move() {
            // What the step needs is there when it runs again.
            self.blocking_run((1, Ending::Sample), position + 1, state)?;
        }
        self.write_state(&state)?;
        Ok(self.gpu().blocking_profile(self.decode_recording(), timing)?)
    }
}
