//! Made-up models of architectures that differ from llama's in more than a line: what [`Made::new`] makes, changed.

use super::{Made, Sizes};
use halogen::formats::Format;

impl Made {
    /// Turns the dense model that `new` made into one of its architecture, where there is more to it.
    pub(super) fn specialise(&mut self, format: Format, s: &Sizes) {
        if self.architecture() == "llama4" {
            self.llama4(format, s);
        }
    }

    fn layer_matrix(&mut self, layer: usize, what: &str, dims: &[usize], format: Format) {
        self.matrix(&format!("blk.{layer}.{what}.weight"), dims, format, 2.0 / (dims[0] as f32).sqrt());
    }

    fn mixture_keys(&mut self, s: &Sizes) {
        self.set("expert_count", (s.experts as u32).into());
        self.set("expert_used_count", (s.used as u32).into());
        self.set("expert_feed_forward_length", (s.ff as u32).into());
    }

    /// Experts, and a shared one, in place of a layer's dense MLP.
    fn experts_with_shared(&mut self, layer: usize, format: Format, s: &Sizes) {
        self.layer_matrix(layer, "ffn_gate_inp", &[s.hidden, s.experts], Format::F32);
        for (what, dims) in [("gate", [s.hidden, s.ff]), ("up", [s.hidden, s.ff]), ("down", [s.ff, s.hidden])] {
            self.remove(&format!("blk.{layer}.ffn_{what}.weight"));
            self.layer_matrix(layer, &format!("ffn_{what}_exps"), &[dims[0], dims[1], s.experts], format);
            self.layer_matrix(layer, &format!("ffn_{what}_shexp"), &dims, format);
        }
    }

    /// Maverick's kind, of which every other layer is dense, with chunks of 16 positions.
    fn llama4(&mut self, format: Format, s: &Sizes) {
        self.mixture_keys(s);
        self.set("interleave_moe_layer_step", 2u32.into());
        self.set("attention.sliding_window", 16u32.into());
        for layer in (1..s.layers).step_by(2) {
            self.experts_with_shared(layer, format, s);
        }
    }
}
