//! Error scopes, so that the app's handlers never see halogen's errors.

use super::{Error, Gpu, Result};
use crate::boxed::BoxFuture;
use futures::FutureExt;
use std::sync::Mutex;

/// Answers of scopes that are still to come, as in a browser.
pub(super) type Unanswered = Mutex<Vec<BoxFuture<'static, Result<()>>>>;

impl Gpu {
    /// Runs a creation under error scopes. Native devices answer at once; what is answered later, [`Gpu::poll`] says.
    pub(super) fn scoped<T>(&self, what: &str, create: impl FnOnce(&wgpu::Device) -> T) -> Result<T> {
        let device = self.device();
        let memory = device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let internal = device.push_error_scope(wgpu::ErrorFilter::Internal);
        let validation = device.push_error_scope(wgpu::ErrorFilter::Validation);
        let value = create(device);
        let (validation, internal, memory) = (validation.pop(), internal.pop(), memory.pop());
        let what = what.to_string();
        let mut answer: BoxFuture<_> = Box::pin(async move {
            let rejected = [validation.await, internal.await];
            if let Some(error) = memory.await {
                return Err(Error::OutOfMemory(format!("{what}: {error}")));
            }
            match rejected.into_iter().flatten().next() {
                Some(error) => Err(Error::Rejected { what, message: error.to_string() }),
                None => Ok(()),
            }
        });
        match (&mut answer).now_or_never() {
            Some(answer) => answer.map(|()| value),
            None => {
                self.unanswered().lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(answer);
                Ok(value)
            }
        }
    }

    /// The first error of those that were answered since.
    pub(super) fn late_errors(&self) -> Result<()> {
        let mut unanswered = self.unanswered().lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut result = Ok(());
        unanswered.retain_mut(|answer| match answer.now_or_never() {
            Some(answer) => {
                result = std::mem::replace(&mut result, Ok(())).and(answer);
                false
            }
            None => true,
        });
        result
    }
}
