//! An answer's tokens as a stream, or one after another as they are waited for.

use super::answer::{Stats, Token};
use super::{Budget, Result, Sampling, Session};
use std::pin::Pin;
use std::task::{Context, Poll};

/// Tokens as they arrive: a [`futures::Stream`], or [`Generation::blocking_next`]. Dropping it stops; the session
/// keeps what was cached.
pub struct Generation<'s> {
    session: &'s mut Session,
}

impl Drop for Generation<'_> {
    fn drop(&mut self) {
        self.session.stop();
    }
}

impl Session {
    /// As [`Session::ask`], for a host that takes tokens as a stream or waits for them. The first steps are queued at once.
    ///
    /// # Errors
    /// As [`Session::ask`].
    pub fn generate(
        &mut self,
        prompt: &[u32],
        sampling: &Sampling,
        stops: &[u32],
        limit: usize,
    ) -> Result<Generation<'_>> {
        self.ask(prompt, sampling, stops, limit)?;
        self.with_answer(|answer, session| answer.give(session, Budget::unlimited(), false))?;
        Ok(Generation { session: self })
    }
}

impl Generation<'_> {
    /// The next token; waits for its step. `None` after the last.
    ///
    /// # Errors
    /// A lost device, or experts that cannot be read.
    pub fn blocking_next(&mut self) -> Result<Option<Token>> {
        match self.session.with_answer(|answer, session| answer.next(session, true).map(Some))? {
            Some(Poll::Ready(token)) => Ok(token),
            _ => Ok(None),
        }
    }

    /// What the generation took so far.
    pub fn stats(&self) -> Stats {
        self.session.stats()
    }
}

impl futures::Stream for Generation<'_> {
    type Item = Result<Token>;

    /// Never waits: where no step has finished, the task is woken within half a millisecond to look again.
    fn poll_next(self: Pin<&mut Self>, context: &mut Context) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        match this.session.with_answer(|answer, session| answer.next(session, false).map(Some)) {
            Ok(Some(Poll::Pending)) => {
                this.session.stages.iter().for_each(|stage| stage.gpu().wake_soon(context.waker()));
                Poll::Pending
            }
            Ok(Some(Poll::Ready(token))) => Poll::Ready(token.map(Ok)),
            Ok(None) => Poll::Ready(None),
            Err(error) => Poll::Ready(Some(Err(error))),
        }
    }
}
