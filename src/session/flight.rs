//! Steps on the device: submitting them, and going on with those that missed an expert.

use super::engine::{Ending, RECORD_OFFSET};
use super::state::State;
use super::{Error, Result, Session};
use crate::gpu::{self, Dispatch, Readback, Recording, View};
use crate::ops::Record;
use std::ops::Range;

/// A step that was submitted and has not been seen to end.
pub(super) struct Flight {
    key: (usize, Ending),
    /// Positions that are cached after it.
    pub positions: usize,
    report: Option<Readback>,
    /// What the cache says of its states after it, where they are to be saved.
    states: Option<Vec<Readback>>,
}

/// How a step stands that has come back.
pub(super) enum Landed {
    Done(State),
    /// It missed experts, which are there now, and is on its way again.
    Again,
}

impl Flight {
    pub fn is_ready(&self) -> bool {
        self.report.as_ref().is_some_and(Readback::is_ready)
    }

    /// The states of a step that has ended.
    pub fn take_states(&mut self) -> Option<Vec<Readback>> {
        self.states.take()
    }
}

impl Session {
    pub(super) fn write_state(&self, state: &State) -> Result<()> {
        Ok(self.gpu().write(&self.state, 0, bytemuck::bytes_of(state))?)
    }

    /// Submits a part of a recording, itself in parts that stay within the bound; `read` comes back after the last of them.
    /// Gives the number of submits.
    pub(super) fn submit(
        &self,
        recording: &Recording,
        range: Range<usize>,
        positions: usize,
        read: &[&View],
    ) -> Result<(Option<Readback>, usize)> {
        let parts = recording.cut(range, positions, &self.limits, self.submit.as_secs_f64());
        let mut readback = None;
        for (i, part) in parts.iter().enumerate() {
            let read = if i + 1 == parts.len() { read } else { &[] };
            readback = self.gpu().submit(recording, part.clone(), read)?.pop();
        }
        Ok((readback, parts.len()))
    }

    /// Makes ready for a prompt, which is checked: how many of its tokens are cached already.
    pub(super) fn begin(&mut self, prompt: &[u32]) -> Result<usize> {
        let context = self.cache.positions;
        if prompt.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        if prompt.len() > context {
            return Err(Error::ContextOverflow { prompt: prompt.len(), context });
        }
        self.check_tokens(prompt)?;
        // Until the new keys and values are known to be there, only the common ones are.
        let (common, back) = self.history.resume(prompt);
        if back {
            let gpu = self.gpu().clone();
            for (view, bytes) in self.cache.states(common).iter().zip(self.history.states(common, &gpu)?) {
                gpu.write(view, 0, bytes)?;
            }
        } else if self.history.due(common, true) {
            let states = self.read_states(common)?;
            self.save(common, states);
        }
        self.fill_rope(prompt.len() + 1)?;
        self.gpu().write(&self.token_ids, 0, bytemuck::cast_slice(prompt))?;
        Ok(common)
    }

    /// Submits the next chunk of a prompt of `total` tokens, of which `at` are cached; the last chunk samples. `state` is its
    /// state but for the position. Gives the number of submits.
    pub(super) fn prefill(&mut self, at: usize, total: usize, state: &State) -> Result<(Flight, usize)> {
        let tokens = self.chunk().min(total - at);
        let key = (tokens, if at + tokens == total { Ending::Sample } else { Ending::Nothing });
        self.record(key.0, key.1)?;
        self.write_state(&State { position: at as u32, clock: self.model().next_clock(), ..*state })?;
        self.history.reach(at + tokens);
        let keep = self.history.due(at + tokens, at + tokens == total);
        self.launch(key, at + tokens, keep)
    }

    /// Copies of the states after `positions` tokens, after what was submitted before.
    fn read_states(&self, positions: usize) -> Result<Vec<Readback>> {
        let states = self.cache.states(positions);
        Ok(self.gpu().read(&states.iter().collect::<Vec<&View>>())?)
    }

    /// Keeps the states after `positions` tokens as a checkpoint.
    pub(super) fn save(&mut self, positions: usize, states: Vec<Readback>) {
        let bytes = self.cache.states(positions).iter().map(|view| view.size).sum();
        self.history.save(positions, bytes, states);
    }

    /// Submits one decode step, whose token is the one sampled last; `positions` are cached after it. Gives the number of
    /// submits.
    pub(super) fn decode(&mut self, positions: usize) -> Result<(Flight, usize)> {
        self.history.reach(positions);
        let keep = self.history.due(positions, false);
        self.launch((1, Ending::Sample), positions, keep)
    }

    fn launch(&self, key: (usize, Ending), positions: usize, keep: bool) -> Result<(Flight, usize)> {
        let recording = &self.recordings[&key].recording;
        let all = 0..recording.dispatches.len();
        let (report, submits) = self.submit(recording, all, positions, &[&self.report])?;
        let states = if keep { Some(self.read_states(positions)?) } else { None };
        Ok((Flight { key, positions, report, states }, submits))
    }

    /// Submits a step again that did nothing, since one before it had missed an expert.
    pub(super) fn relaunch(&self, flight: &mut Flight) -> Result<()> {
        *flight = self.launch(flight.key, flight.positions, flight.states.is_some())?.0;
        Ok(())
    }

    /// Takes what a ready step says. One that missed experts goes on with them.
    pub(super) fn land(&mut self, flight: &mut Flight) -> Result<Landed> {
        let report = flight.report.take().expect("a step lands once").take()?;
        self.landed(flight, &report)
    }

    /// As [`Session::land`], of a step that is waited for.
    pub(super) fn blocking_land(&mut self, flight: &mut Flight) -> Result<Landed> {
        let report = flight.report.take().expect("a step lands once").blocking_take(self.gpu())?;
        self.landed(flight, &report)
    }

    fn landed(&mut self, flight: &mut Flight, report: &[u8]) -> Result<Landed> {
        let state: State = bytemuck::pod_read_unaligned(&report[..size_of::<State>()]);
        let Some(record) = report.get(RECORD_OFFSET as usize..) else { return Ok(Landed::Done(state)) };
        let record: Record = bytemuck::pod_read_unaligned(&record[..size_of::<Record>()]);
        self.model().store().saw(state.clock, record.found.wrapping_sub(self.found));
        self.found = record.found;
        if !state.missed() {
            return Ok(Landed::Done(state));
        }
        flight.report = self.go_on(flight, state.halt_layer, &record)?;
        if flight.states.is_some() {
            // Those of before were copied in the middle of the step.
            flight.states = Some(self.read_states(flight.positions)?);
        }
        Ok(Landed::Again)
    }

    /// Brings the experts that a halted layer needs, and submits the rest of the step. Where they are more than the layer's
    /// slots, its experts run in passes, each with those that it has: every (token, rank) has a row of its own, and the rows
    /// are summed after the last pass.
    fn go_on(&self, flight: &Flight, layer: u32, record: &Record) -> Result<Option<Readback>> {
        let recording = &self.recordings[&flight.key].recording;
        let find = |from: usize, shader: &str| {
            let found =
                recording.dispatches[from..].iter().position(|d| d.kernel.spec.shader == shader && d.layer == layer);
            found.map(|at| from + at)
        };
        let from = find(0, "expert_lookup").expect("a lookup halted") + 1;
        let needed: Vec<u32> = record.needed().collect();
        let mut store = self.model().store();
        let passes = store.passes(layer, &needed);
        let mut report = None;
        for (i, pass) in passes.iter().enumerate() {
            store.bring(layer, pass, &record.stamps)?;
            self.gpu().write(&self.state, 0, bytemuck::bytes_of(&0u32))?;
            if i + 1 < passes.len() {
                let combine = find(from, "expert_combine").expect("many tokens have rows of their own");
                self.submit(recording, from..combine, flight.positions, &[])?;
            } else {
                let rest = from..recording.dispatches.len();
                report = self.submit(recording, rest, flight.positions, &[&self.report])?.0;
            }
        }
        store.show_all(layer)?;
        Ok(report)
    }

    /// Runs a recording to its end, whatever it misses.
    pub(super) fn blocking_run(&mut self, key: (usize, Ending), positions: usize) -> Result<()> {
        let (mut flight, _) = self.launch(key, positions, false)?;
        while let Landed::Again = self.blocking_land(&mut flight)? {}
        Ok(())
    }

    /// Logits of every token, f32 [tokens, vocabulary], from an empty cache, `chunk` tokens a step.
    ///
    /// # Errors
    /// Token ids out of range, or more tokens than the context.
    pub fn blocking_logits(&mut self, tokens: &[u32], chunk: usize) -> Result<Vec<f32>> {
        self.logits_by(tokens, chunk, |session, key, position| session.blocking_run(key, position + key.0))
    }

    /// As [`Session::blocking_logits`], of a model whose experts are all there. After each router has run, `watch` is told the
    /// first token's position and may read and write the dispatch's buffers; the router runs again for as long as it asks.
    /// For tests that compare what models say, not which experts they choose.
    #[doc(hidden)]
    pub fn blocking_logits_watched(
        &mut self,
        tokens: &[u32],
        chunk: usize,
        mut watch: impl FnMut(usize, &Dispatch) -> gpu::Result<bool>,
    ) -> Result<Vec<f32>> {
        self.logits_by(tokens, chunk, |session, key, position| {
            let (recording, mut from) = (&session.recordings[&key].recording, 0);
            for (i, router) in recording.dispatches.iter().enumerate() {
                if router.kernel.spec.shader == "router" {
                    session.gpu().submit(recording, from..i + 1, &[])?;
                    while watch(position, router)? {
                        session.gpu().submit(recording, i..i + 1, &[])?;
                    }
                    from = i + 1;
                }
            }
            session.gpu().submit(recording, from..recording.dispatches.len(), &[])?;
            Ok(())
        })
    }

    /// `run` runs a recorded step of tokens from a position on.
    fn logits_by(
        &mut self,
        tokens: &[u32],
        chunk: usize,
        mut run: impl FnMut(&mut Session, (usize, Ending), usize) -> Result<()>,
    ) -> Result<Vec<f32>> {
        let context = self.cache.positions;
        if tokens.len() > context {
            return Err(Error::ContextOverflow { prompt: tokens.len(), context });
        }
        self.check_tokens(tokens)?;
        self.clear();
        self.fill_rope(tokens.len())?;
        self.gpu().write(&self.token_ids, 0, bytemuck::cast_slice(tokens))?;
        let chunk = chunk.clamp(1, self.chunk());
        let vocabulary = self.model().shape().vocabulary;
        let mut logits = Vec::with_capacity(tokens.len() * vocabulary);
        for start in (0..tokens.len()).step_by(chunk) {
            let count = chunk.min(tokens.len() - start);
            self.record(count, Ending::Logits)?;
            let (position, clock) = (start as u32, self.model().next_clock());
            self.write_state(&State { position, context: context as u32, clock, ..State::default() })?;
            run(self, (count, Ending::Logits), start)?;
            let view = self.recordings[&(count, Ending::Logits)].logits.as_ref().expect("recorded with logits");
            logits.extend_from_slice(&self.gpu().blocking_read::<f32>(view)?[..count * vocabulary]);
        }
        self.history.reach(tokens.len());
        self.history.extend(tokens.iter().copied());
        self.history.settle();
        Ok(logits)
    }
}
