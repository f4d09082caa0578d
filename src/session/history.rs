//! The tokens that a session has processed, and from where a prompt that begins like them can go on. Keys and values are
//! cut back to any position. A recurrent state cannot be: it goes on from its end, or from a checkpoint on the host.

use super::Result;
use crate::gpu::{Gpu, Readback};

/// When recurrent states are copied to the host, so that a prompt that leaves the last one's way can go on from there: at
/// the start of each turn, at the end of its prompt, and every so many tokens.
#[derive(Clone, Copy, Debug)]
pub struct Checkpoints {
    /// Tokens from one to the next at most, in whole steps.
    pub interval: usize,
    /// Bytes of host memory for them; the oldest go first.
    pub bytes: u64,
}

impl Default for Checkpoints {
    /// Every 2,048 tokens, in 1 GiB: Qwen3-Next's states take 75 MiB.
    fn default() -> Self {
        Checkpoints { interval: 2048, bytes: 1 << 30 }
    }
}

/// All recurrent states after so many tokens.
struct Checkpoint {
    position: usize,
    bytes: u64,
    /// On their way to the host, until somebody goes on from here.
    coming: Vec<Readback>,
    states: Vec<Vec<u8>>,
}

/// Tokens whose keys and values are cached, as far as the host knows.
pub struct History {
    tokens: Vec<u32>,
    /// Whether recurrent states are known to be those after the last token; steps that were queued ahead of an answer that
    /// nobody waited for have moved them on.
    settled: bool,
    options: Checkpoints,
    /// Oldest first.
    checkpoints: Vec<Checkpoint>,
    /// The position of the last checkpoint that was asked for.
    planned: usize,
}

impl History {
    pub fn new(options: Checkpoints) -> Self {
        History { tokens: Vec::new(), settled: false, options, checkpoints: Vec::new(), planned: 0 }
    }

    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    pub fn clear(&mut self) {
        *self = History::new(self.options);
    }

    /// Cuts back to what `prompt` can go on from, and gives its length, and whether recurrent states must be brought back
    /// to be those after it. What both begin with can stay, but for the prompt's last token, whose logits give the next.
    pub fn resume(&mut self, prompt: &[u32], recurrent: bool) -> (usize, bool) {
        let same = self.tokens.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        let common = same.min(prompt.len().saturating_sub(1));
        let (kept, back) = match !recurrent || (self.settled && common == self.tokens.len()) {
            true => (common, false),
            false => {
                let before = self.checkpoints.iter().map(|c| c.position).filter(|position| *position <= common);
                before.max().map_or((0, false), |position| (position, true))
            }
        };
        self.tokens.truncate(kept);
        self.checkpoints.retain(|c| c.position <= kept);
        self.planned = self.checkpoints.iter().map(|c| c.position).max().unwrap_or(0);
        self.settled = false;
        (kept, back)
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
        let due = position > self.planned && (turn || position >= self.planned + self.options.interval);
        if due {
            self.planned = position;
        }
        due
    }

    /// Keeps the states after `position` tokens, in place of the oldest ones where there is no room.
    pub fn save(&mut self, position: usize, bytes: u64, states: Vec<Readback>) {
        self.checkpoints.push(Checkpoint { position, bytes, coming: states, states: Vec::new() });
        while self.checkpoints.iter().map(|c| c.bytes).sum::<u64>() > self.options.bytes {
            self.checkpoints.remove(0);
        }
    }

    /// The states after `position` tokens, which [`History::resume`] gave.
    pub fn states(&mut self, position: usize, gpu: &Gpu) -> Result<&[Vec<u8>]> {
        let checkpoint = self.checkpoints.iter_mut().find(|c| c.position == position).expect("one to go on from");
        for readback in checkpoint.coming.drain(..) {
            checkpoint.states.push(readback.blocking_take(gpu)?);
        }
        Ok(&checkpoint.states)
    }
}

#[cfg(test)]
mod tests {
    use super::{Checkpoints, History};

    fn history(tokens: &[u32], settled: bool) -> History {
        let options = Checkpoints { interval: 10, bytes: 100 };
        History { tokens: tokens.to_vec(), settled, ..History::new(options) }
    }

    #[test]
    fn keys_and_values_are_cut_back_and_recurrent_states_only_go_on() {
        let resumed = |prompt: &[u32], recurrent, settled| {
            let mut history = history(&[1, 2, 3], settled);
            let (kept, back) = history.resume(prompt, recurrent);
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
        let mut history = history(&(0..40).collect::<Vec<u32>>(), true);
        // Asked for at a turn's ends and every 10 tokens, and never twice.
        let due: Vec<usize> = (0..40).filter(|position| history.due(*position, *position == 7)).collect();
        assert_eq!(due, [7, 17, 27, 37]);
        for position in due {
            history.save(position, 30, vec![]);
        }
        // Of 120 bytes, 100 are allowed.
        let changed: Vec<u32> = (0..30).chain([99, 99]).collect();
        assert_eq!(history.resume(&changed, true), (27, true));
        assert_eq!(history.tokens().len(), 27);
        // What lies behind the change is forgotten; the one at 27 is there.
        assert!(!history.due(27, true) && history.due(28, true));
        assert_eq!(history.resume(&(0..20).collect::<Vec<u32>>(), true), (17, true));
        assert_eq!(history.resume(&[0, 1, 2, 3, 4, 5, 6, 7, 8], true), (0, false), "the oldest went first");
    }
}
