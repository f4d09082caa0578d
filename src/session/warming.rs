//! Making a session ready in slices: its buffers at once, then every kernel that a step of it can use, then its recordings.

use super::stage::{Ending, Stage};
use super::state::State;
use super::{Model, Result, Session, SessionOptions};
use crate::gpu::{KernelSpec, Recording};
use std::collections::{BTreeSet, HashSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// A session on its way: [`Model::warm_up`].
pub struct WarmUp {
    session: Session,
    /// Of each device.
    kernels: Vec<(usize, KernelSpec)>,
    compiled: usize,
    recorded: usize,
    /// The first dispatches of kernels, by device and recording, which have not run yet.
    unrun: Vec<(usize, usize, Range<usize>)>,
    ran: usize,
    /// Devices whose weights come and go: there it is measured how far the host is to run ahead.
    moving: Vec<usize>,
    measured: usize,
}

/// A token and several need kernels of their own, and so do 2, 4 and 8 (from 3 and 5 on) and tiles.
const SIZES: [usize; 5] = [1, 2, 3, 5, 9];
/// Kernels that are run for the first time at once: drivers that compile then make the device's other work wait.
const RUNS: usize = 4;

impl Model {
    /// Begins to make a session ready: buffers are made here, and the kernels that steps of any length can use are listed.
    /// [`WarmUp::advance`] compiles them a slice at a time, so that an app can do it between frames.
    ///
    /// # Errors
    /// A tier that the device lacks, a context of 0, or no memory for the cache.
    pub fn warm_up(self: &Arc<Self>, options: &SessionOptions) -> Result<WarmUp> {
        let mut session = Session::bare(self, options)?;
        let (chunk, mut kernels) = (session.chunk(), Vec::new());
        for (index, stage) in session.stages.iter_mut().enumerate() {
            let mut own = BTreeSet::new();
            for tokens in SIZES.into_iter().filter(|tokens| *tokens < chunk).chain([chunk]) {
                own.append(&mut stage.survey(tokens)?);
            }
            kernels.extend(own.into_iter().map(|kernel| (index, kernel)));
        }
        let moves = |stage: &usize| session.stages[*stage].part().weights_move();
        let moving = (0..session.stages.len()).filter(moves).collect();
        Ok(WarmUp { session, kernels, compiled: 0, recorded: 0, unrun: Vec::new(), ran: 0, moving, measured: 0 })
    }
}

fn recording(stage: &Stage, length: usize) -> &Recording {
    stage.recording((length, Ending::Sample))
}

impl WarmUp {
    /// What is recorded: a decode step and a full prefill step, which every session uses.
    fn lengths(&self) -> [usize; 2] {
        [1, self.session.chunk()]
    }

    /// Steps done and steps in all, of about the same length where no kernel was compiled before.
    pub fn progress(&self) -> (usize, usize) {
        // What is to be run is known once it is recorded: about as many as there are kernels.
        let runs = if self.recorded == 2 { self.unrun.len() } else { self.kernels.len() }.div_ceil(RUNS);
        let all = self.kernels.len() + 2 + runs + self.moving.len();
        (self.compiled + self.recorded + self.ran.div_ceil(RUNS) + self.measured, all)
    }

    /// Whether nothing is left to do.
    pub fn is_done(&self) -> bool {
        self.has_run() && self.measured == self.moving.len()
    }

    fn has_run(&self) -> bool {
        self.recorded == 2 && self.ran == self.unrun.len()
    }

    /// Goes on for about `time`, by one step at least; several threads compile where there are. Whether it is done.
    ///
    /// # Errors
    /// A kernel that the driver refuses, or a lost device.
    pub fn advance(&mut self, time: Duration) -> Result<bool> {
        if self.compiled < self.kernels.len() {
            let rest = &self.kernels[self.compiled..];
            let device = rest[0].0;
            let own = rest.iter().take_while(|(index, _)| *index == device).map(|(_, kernel)| kernel.clone());
            self.compiled += self.session.stages[device].gpu().compile(&own.collect::<Vec<_>>(), time)?;
        } else if self.recorded < 2 {
            self.session.record((self.lengths()[self.recorded], Ending::Sample))?;
            self.recorded += 1;
            if self.recorded == 2 {
                self.unrun = self.first_runs();
                let halted = State { halt: 1, ..State::default() };
                self.session.stages.iter().try_for_each(|stage| stage.write_state(&halted))?;
            }
        } else if self.ran < self.unrun.len() {
            let device = self.unrun[self.ran].0;
            let next = self.unrun[self.ran..].iter().take(RUNS).take_while(|(index, ..)| *index == device);
            let stage = &self.session.stages[device];
            let part = |(_, length, at): &(usize, usize, Range<usize>)| (recording(stage, *length), at.clone());
            let parts: Vec<_> = next.map(part).collect();
            stage.gpu().submit_all(&parts, &[])?;
            self.ran += parts.len();
        } else if self.measured < self.moving.len() {
            let stage = &mut self.session.stages[self.moving[self.measured]];
            self.measured += usize::from(stage.measure_ahead()?);
        }
        Ok(self.is_done())
    }

    /// The first dispatch of each kernel. They are run with the halt word set, and so do nothing, but a driver that compiles
    /// at a kernel's first dispatch does it here and not within the first answer.
    fn first_runs(&self) -> Vec<(usize, usize, Range<usize>)> {
        let (mut seen, mut runs) = (HashSet::new(), Vec::new());
        for (index, stage) in self.session.stages.iter().enumerate() {
            for length in self.lengths() {
                for (i, dispatch) in recording(stage, length).dispatches.iter().enumerate() {
                    if seen.insert(Arc::as_ptr(&dispatch.kernel)) {
                        runs.push((index, length, i..i + 1));
                    }
                }
            }
        }
        runs
    }

    /// The session, after what is left to do.
    ///
    /// # Errors
    /// As [`WarmUp::advance`].
    pub fn finish(mut self) -> Result<Session> {
        while !self.advance(Duration::MAX)? {
            // In a browser nothing comes back while a function runs, so there nothing is measured.
            if cfg!(target_family = "wasm") && self.has_run() {
                break;
            }
        }
        Ok(self.session)
    }
}
