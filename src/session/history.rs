//! The tokens that a session has processed, and from where a prompt that begins like them can go on. Keys and values are
//! cut back to any position; those of layers with a window for as far as their rings hold what comes before it. A recurrent
//! state cannot be cut back: it goes on from its end. Else all goes on from a checkpoint on the host.

use super::Result;
use crate::gpu::Readback;
use crate::memory::Rewind;
use std::collections::VecDeque;

/// When recurrent states and windows are copied to the host, so that a prompt that leaves the last one's way can go on from
/// there: at the start of each turn, at the end of its prompt, and every so many tokens.
#[derive(Clone, Copy, Debug)]
pub struct Checkpoints {
    /// Tokens from one to the next at most, in whole steps.
    pub interval: usize,
    /// Bytes of host memory for them; the oldest go first.
    pub bytes: u64,
}

impl Default for Checkpoints {
    /// Every 2,048 tokens, in 1 GiB: Qwen3-Next's states take 75 MiB, gpt-oss-120b's windows 4.5, Gemma 3 27B's 416.
    fn default() -> Self {
        Checkpoints { interval: 2048, bytes: 1 << 30 }
    }
}

/// All recurrent states and windows after so many tokens.
struct Checkpoint {
    position: usize,
    bytes: u64,
    /// On their way to the host, until somebody goes on from here.
    coming: VecDeque<Readback>,
    states: Vec<Vec<u8>>,
}

impl Checkpoint {
    /// Takes what has come, or is waited for; whether all has.
    fn arrive(&mut self, wait: bool) -> Result<bool> {
        while let Some(readback) = self.coming.pop_front() {
            if !wait && !readback.is_ready() {
                self.coming.push_front(readback);
                return Ok(false);
            }
            self.states.push(readback.blocking_take()?);
        }
        Ok(true)
    }
}

/// Tokens whose keys and values are cached, as far as the host knows.
pub struct History {
    tokens: Vec<u32>,
    /// Whether recurrent states are known to be those after the last token; steps that were queued ahead of an answer that
    /// nobody waited for have moved them on.
    settled: bool,
    /// Rings hold the last rows before this position, or what a checkpoint brought back.
    reached: usize,
    rewind: Rewind,
    options: Checkpoints,
    /// Oldest first.
    checkpoints: Vec<Checkpoint>,
    /// The position of the last checkpoint that was asked for.
    planned: usize,
}

impl History {
    pub fn new(options: Checkpoints, rewind: Rewind) -> Self {
        History { tokens: Vec::new(), settled: false, reached: 0, rewind, options, checkpoints: Vec::new(), planned: 0 }
    }

    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    pub fn reached(&self) -> usize {
        self.reached
    }

    pub fn is_settled(&self) -> bool {
        self.settled
    }

    /// The positions of checkpoints that have arrived, and their states, oldest first.
    pub fn checkpoints(&self) -> impl Iterator<Item = (usize, &[Vec<u8>])> {
        self.checkpoints.iter().map(|c| (c.position, &c.states[..]))
    }

    /// As a conversation was saved: `tokens` are processed, and [`History::put`] has brought its checkpoints.
    pub fn restore(&mut self, tokens: Vec<u32>, reached: usize, settled: bool) {
        (self.tokens, self.reached, self.settled) = (tokens, reached, settled);
    }

    pub fn clear(&mut self) {
        *self = History::new(self.options, self.rewind);
    }

    /// Cuts back to what `prompt` can go on from, and gives its length, and whether states and windows must be brought back
    /// to be those after it. What both begin with can stay, but for the prompt's last token, whose logits give the next.
    pub fn resume(&mut self, prompt: &[u32]) -> (usize, bool) {
        let same = self.tokens.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        let common = same.min(prompt.len().saturating_sub(1));
        let (kept, back) = match self.holds(common) {
            true => (common, false),
            false => {
                let before = self.checkpoints.iter().map(|c| c.position).filter(|position| *position <= common);
                let found = before.max();
                if found.is_none() {
                    self.reached = 0;
                }
                found.map_or((0, false), |position| (position, true))
            }
        };
        self.tokens.truncate(kept);
        self.checkpoints.retain(|c| c.position <= kept);
        self.planned = self.checkpoints.iter().map(|c| c.position).max().unwrap_or(0);
        self.settled = false;
        (kept, back)
    }

    /// Whether the cache can be cut back to `position`, and go on.
    fn holds(&self, position: usize) -> bool {
        let rings = self.rewind.rings;
        let windows =
            rings.is_none_or(|r| self.reached <= r.shortest || self.reached <= position.saturating_add(r.beyond));
        windows && (!self.rewind.recurrent || (self.settled && position == self.tokens.len()))
    }

    /// Steps up to `position` are submitted.
    pub fn reach(&mut self, position: usize) {
        self.reached = self.reached.max(position);
    }

    /// `tokens` are processed.
    pub fn extend(&mut self, tokens: impl IntoIterator<Item = u32>) {
        self.tokens.extend(tokens);
    }

    /// No step has run, or will, beyond the last token.
    pub fn settle(&mut self) {
        self.settled = true;
    }

    /// Whether the states at `position` are to be saved: where a turn's prompt begins or ends (`turn`), or an interval after
    /// the last. They will be, if so.
    pub fn due(&mut self, position: usize, turn: bool) -> bool {
        let any = self.rewind.recurrent || self.rewind.rings.is_some();
        let due = any && position > self.planned && (turn || position >= self.planned + self.options.interval);
        if due {
            self.planned = position;
        }
        due
    }

    /// Keeps the states after `position` tokens, in place of the oldest ones where there is no room.
    pub fn save(&mut self, position: usize, bytes: u64, states: Vec<Readback>) {
        self.add(Checkpoint { position, bytes, coming: states.into(), states: Vec::new() });
    }

    /// As [`History::save`], of states that are on the host.
    pub fn put(&mut self, position: usize, states: Vec<Vec<u8>>) {
        let bytes = states.iter().map(|state| state.len() as u64).sum();
        self.add(Checkpoint { position, bytes, coming: VecDeque::new(), states });
    }

    fn add(&mut self, checkpoint: Checkpoint) {
        self.checkpoints.push(checkpoint);
        while self.checkpoints.iter().map(|c| c.bytes).sum::<u64>() > self.options.bytes {
            self.checkpoints.remove(0);
        }
    }

    /// The states after `position` tokens, which [`History::resume`] gave.
    /// `None`: they have not come to the host, and are not waited for.
    pub fn states(&mut self, position: usize, wait: bool) -> Result<Option<&[Vec<u8>]>> {
        let checkpoint = self.checkpoints.iter_mut().find(|c| c.position == position).expect("one to go on from");
        Ok(checkpoint.arrive(wait)?.then_some(&checkpoint.states))
    }

    /// They are in the cache again: of rings there is the window before it, and no more.
    pub fn brought_back(&mut self, position: usize) {
        self.reached = position + self.rewind.rings.map_or(0, |rings| rings.beyond);
    }

    /// Waits for the states of all checkpoints.
    pub fn arrive(&mut self) -> Result<()> {
        self.checkpoints.iter_mut().try_for_each(|checkpoint| checkpoint.arrive(true).map(|_| ()))
    }
}

#[cfg(test)]
mod tests {
    use super::{Checkpoints, History, Rewind};
    use crate::memory::Rings;

    const RECURRENT: Rewind = Rewind { recurrent: true, rings: None };

    fn history(tokens: &[u32], settled: bool, rewind: Rewind) -> History {
        let options = Checkpoints { interval: 10, bytes: 100 };
        History { tokens: tokens.to_vec(), settled, ..History::new(options, rewind) }
    }

    #[test]
    fn keys_and_values_are_cut_back_and_recurrent_states_only_go_on() {
        let resumed = |prompt: &[u32], recurrent, settled| {
            let mut history = history(&[1, 2, 3], settled, Rewind { recurrent, rings: None });
            let (kept, back) = history.resume(prompt);
            assert!(!back && history.tokens() == &prompt[..kept]);
            kept
        };
        for (prompt, positions, state) in
            [(&[1, 2, 3, 4][..], 3, 3), (&[1, 2, 3], 2, 0), (&[1, 2], 1, 0), (&[1, 9, 3, 4], 1, 0), (&[9], 0, 0)]
        {
            assert_eq!(resumed(prompt, false, false), positions);
            assert_eq!(resumed(prompt, true, true), state);
            assert_eq!(resumed(prompt, true, false), 0);
        }
    }

    #[test]
    fn the_last_checkpoint_before_the_change_is_gone_on_from() {
        let mut history = history(&(0..40).collect::<Vec<u32>>(), true, RECURRENT);
        // Asked for at a turn's ends and every 10 tokens, and never twice.
        let due: Vec<usize> = (0..40).filter(|position| history.due(*position, *position == 7)).collect();
        assert_eq!(due, [7, 17, 27, 37]);
        for position in due {
            history.save(position, 30, vec![]);
        }
        // Of 120 bytes, 100 are allowed.
        let changed: Vec<u32> = (0..30).chain([99, 99]).collect();
        assert_eq!(history.resume(&changed), (27, true));
        assert_eq!(history.tokens().len(), 27);
        // What lies behind the change is forgotten; the one at 27 is there.
        assert!(!history.due(27, true) && history.due(28, true));
        assert_eq!(history.resume(&(0..20).collect::<Vec<u32>>()), (17, true));
        assert_eq!(history.resume(&[0, 1, 2, 3, 4, 5, 6, 7, 8]), (0, false), "the oldest went first");
    }

    #[test]
    fn a_ring_is_cut_back_by_what_it_holds_beyond_its_window() {
        let all: Vec<u32> = (0..60).collect();
        let cut = |history: &mut History, length: u32| history.resume(&[&all[..length as usize], &[99, 99]].concat());
        // Rings of 20 rows, 5 of them beyond the window.
        let rings = Some(Rings { shortest: 20, beyond: 5 });
        let made = |reached| {
            let mut history = history(&all[..40], true, Rewind { recurrent: false, rings });
            history.reach(reached);
            history.save(17, 50, vec![]);
            history
        };
        assert_eq!(cut(&mut made(43), 38), (38, false));
        assert_eq!(cut(&mut made(43), 37), (17, true));
        assert_eq!(cut(&mut made(43), 10), (0, false));
        // Nothing was overwritten yet.
        assert_eq!(cut(&mut made(20), 3), (3, false));
        // Steps queued ahead of an answer that was left have overwritten more.
        assert_eq!(cut(&mut made(46), 40), (17, true));
        // What a checkpoint brought back is the window before it, whatever was there when it was saved.
        let mut back = made(43);
        assert_eq!(cut(&mut back, 20), (17, true));
        // Left before it was brought back.
        assert_eq!(cut(&mut back, 17), (17, true));
        back.brought_back(17);
        back.reach(21);
        back.extend(17..21);
        assert_eq!(cut(&mut back, 18), (18, false));
        back.checkpoints.clear();
        assert_eq!(cut(&mut back, 16), (0, false));
    }
}
