//! Logits of given tokens, for whoever checks numerics.

use super::stage::{Ending, Key};
use super::state::State;
use super::{Error, Result, Session};
use crate::gpu::{self, Dispatch};

impl Session {
    /// Logits of every token, f32 [tokens, vocabulary], from an empty cache, `chunk` tokens a step.
    ///
    /// # Errors
    /// Token ids out of range, or more tokens than the context.
    pub fn blocking_logits(&mut self, tokens: &[u32], chunk: usize) -> Result<Vec<f32>> {
        self.logits_by(tokens, chunk, |session, key, state| {
            session.blocking_run(key, state.position as usize + key.0, state)
        })
    }

    /// As [`Session::blocking_logits`], of a model whose experts are all there, on one device. After each router and each indexer's
    /// choice has run, `watch` is told the first token's position and may read and write the dispatch's buffers; it runs again for
    /// as long as `watch` asks. For tests that compare what models say, not which experts and keys they choose.
    #[doc(hidden)]
    pub fn blocking_logits_watched(
        &mut self,
        tokens: &[u32],
        chunk: usize,
        mut watch: impl FnMut(usize, &Dispatch) -> gpu::Result<bool>,
    ) -> Result<Vec<f32>> {
        self.logits_by(tokens, chunk, |session, key, state| {
            let [stage] = &session.stages[..] else { panic!("a model on one device is watched") };
            stage.write_state(&state)?;
            let position = state.position as usize;
            let (recording, mut from) = (stage.recording(key), 0);
            for (i, choice) in recording.dispatches.iter().enumerate() {
                if ["router", "index_select"].contains(&choice.kernel.spec.shader) {
                    stage.gpu().submit(recording, from..i + 1, &[])?;
                    while watch(position, choice)? {
                        stage.gpu().submit(recording, i..i + 1, &[])?;
                    }
                    from = i + 1;
                }
            }
            stage.gpu().submit(recording, from..recording.dispatches.len(), &[])?;
            Ok(())
        })
    }

    /// `run` runs a recorded step of tokens from a position on.
    fn logits_by(
        &mut self,
        tokens: &[u32],
        chunk: usize,
        mut run: impl FnMut(&mut Session, Key, State) -> Result<()>,
    ) -> Result<Vec<f32>> {
        let context = self.context();
        if tokens.len() > context {
            return Err(Error::ContextOverflow { prompt: tokens.len(), context });
        }
        self.check_tokens(tokens)?;
        self.clear();
        self.make_room(tokens.len(), true)?;
        for stage in &mut self.stages {
            stage.fill_rope(tokens.len())?;
            stage.write_tokens(0, tokens)?;
        }
        let chunk = chunk.clamp(1, self.chunk());
        let vocabulary = self.model().shape().vocabulary;
        let mut logits = Vec::with_capacity(tokens.len() * vocabulary);
        for start in (0..tokens.len()).step_by(chunk) {
            let count = chunk.min(tokens.len() - start);
            self.record((count, Ending::Logits))?;
            let (position, clock) = (start as u32, self.model().next_clock());
            let state = State { position, context: context as u32, clock, ..State::default() };
            run(self, (count, Ending::Logits), state)?;
            let last = self.last_stage();
            let view = last.recorded((count, Ending::Logits)).logits.as_ref().expect("recorded with logits");
            logits.extend_from_slice(&last.gpu().blocking_read::<f32>(view)?[..count * vocabulary]);
        }
        self.history.reach(tokens.len());
        self.history.extend(tokens.iter().copied());
        self.history.settle();
        Ok(logits)
    }
}
