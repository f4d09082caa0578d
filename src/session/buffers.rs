//! What of a session an app's own kernels can read, without a way over the host.

use super::Session;
use crate::gpu::View;

impl Session {
    /// The ids of all tokens by position, u32 [context + 1], the sampled ones too (STORAGE | COPY_SRC). What was submitted
    /// before the next [`Session::advance`] reads them as this one left them.
    pub fn token_buffer(&self) -> &View {
        &self.last_stage().token_ids
    }

    /// The logits of the step that sampled last, f32 `[vocabulary]` (STORAGE | COPY_SRC), in the same way: of a step that has
    /// begun since, they may be the next one's.
    pub fn logits_buffer(&self) -> &View {
        self.last_stage().scratch.get("logits").expect("a session has recorded a step that samples")
    }
}
