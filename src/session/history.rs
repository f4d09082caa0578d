//! The tokens that a session has processed, and from where a prompt that begins like them can go on.

/// Tokens whose keys and values are cached, as far as the host knows.
#[derive(Default)]
pub struct History {
    tokens: Vec<u32>,
    /// Whether recurrent states are known to be those after the last token; steps that were queued ahead of an answer that
    /// nobody waited for have moved them on.
    settled: bool,
}

impl History {
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    pub fn clear(&mut self) {
        *self = History::default();
    }

    /// Cuts back to what `prompt` can go on from, and gives its length: what both begin with, but for the prompt's last
    /// token, whose logits give the next. A recurrent state cannot be cut back: it goes on from its end, or all over.
    pub fn resume(&mut self, prompt: &[u32], recurrent: bool) -> usize {
        let same = self.tokens.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        let common = same.min(prompt.len().saturating_sub(1));
        let kept = if !recurrent || (self.settled && common == self.tokens.len()) { common } else { 0 };
        self.tokens.truncate(kept);
        self.settled = false;
        kept
    }

    /// `tokens` are processed.
    pub fn extend(&mut self, tokens: impl IntoIterator<Item = u32>) {
        self.tokens.extend(tokens);
    }

    /// No step has run, or will, beyond the last token.
    pub fn settle(&mut self) {
        self.settled = true;
    }
}

#[cfg(test)]
mod tests {
    use super::History;

    fn history(tokens: &[u32], settled: bool) -> History {
        History { tokens: tokens.to_vec(), settled }
    }

    #[test]
    fn keys_and_values_are_cut_back_and_recurrent_states_only_go_on() {
        let resumed = |prompt: &[u32], recurrent, settled| {
            let mut history = history(&[1, 2, 3], settled);
            let kept = history.resume(prompt, recurrent);
            assert_eq!(history.tokens(), &prompt[..kept]);
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
}
