//! The gated delta net (arXiv 2412.06464): a short convolution over the joint projection, then the delta rule over the
//! tokens of the step with a state for each value head, and the gated norm of its output.

use super::{Norm, Result, Step, Tensor, ensure};
use crate::gpu::{Call, Cost, Grid, KernelSpec, View, params};

params!(ShortConvParams { key_heads: u32, value_heads: u32, stride: u32, scale: f32, first_z: u32 });
params!(DeltaNetParams {
    tokens: u32,
    first: u32,
    end: u32,
    heads: u32,
    key_heads: u32,
    stride: u32,
    z_at: u32,
    b_at: u32,
    a_at: u32,
    eps: f32,
    first_group: u32,
});

/// What a recurrent layer keeps.
pub struct RecurrentLayer {
    /// f32 [taps - 1, channels]: the convolution's last inputs, oldest first.
    pub conv: View,
    /// f32 [value_heads, value_dim, key_dim].
    pub delta: View,
}

/// Which key head a value head reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeySharing {
    /// Value heads of one key head follow one another.
    Grouped,
    /// Value heads go through the key heads in turn.
    Tiled,
}

/// The geometry of a delta net.
#[derive(Clone, Copy, Debug)]
pub struct DeltaHeads {
    pub key_heads: usize,
    pub value_heads: usize,
    pub key_dim: usize,
    pub value_dim: usize,
    /// Inputs that the convolution sees, the newest included.
    pub taps: usize,
    pub sharing: KeySharing,
}

impl DeltaHeads {
    /// A head's column lies in registers, a tile of tokens in 16 KiB of workgroup memory.
    pub const MAX_DIM: usize = 128;
    pub const MAX_TAPS: usize = 16;

    /// Columns of q, k and v together.
    pub fn channels(&self) -> usize {
        2 * self.key_heads * self.key_dim + self.inner()
    }

    /// Columns of v, z and the output.
    pub fn inner(&self) -> usize {
        self.value_heads * self.value_dim
    }

    /// Floats of a [`RecurrentLayer`]'s two buffers.
    pub fn state(&self) -> [usize; 2] {
        [(self.taps - 1) * self.channels(), self.inner() * self.key_dim]
    }
}

/// A delta net's weights beside its projections, and where those lie in a row.
pub struct DeltaNet {
    pub heads: DeltaHeads,
    /// First outputs of z (the output's gate), b (how much is written) and a (how much decays); q, k and v come first.
    pub at: [usize; 3],
    /// f32 [taps, channels], the newest input's last.
    pub taps: View,
    /// f32 [value_heads, 2]: a and dt; the state decays by e^(a softplus(x_a + dt)).
    pub gates: View,
    /// Of a head's output: `[value_dim]`.
    pub norm: Norm,
}

/// Tokens of one dispatch: on lavapipe an invocation ends after 65,535 rounds of its loops, of which a token takes
/// key_dim / 2 and a few.
const MOST_TOKENS: usize = 512;
/// Tokens whose q and k lie in workgroup memory together.
const TILE: usize = 8;

impl Step<'_> {
    /// The output [tokens, value_heads * value_dim] of the joint projection x [tokens, ...], and the state moved on.
    pub fn delta_net(&mut self, x: &Tensor, net: &DeltaNet, state: &RecurrentLayer) -> Result<Tensor> {
        let h = &net.heads;
        let dims = [h.key_dim, h.value_dim];
        ensure(dims.iter().all(|d| *d > 0 && d.is_multiple_of(4) && *d <= DeltaHeads::MAX_DIM), "delta_net", || {
            format!("heads of {dims:?}: multiples of 4 up to {} are needed", DeltaHeads::MAX_DIM)
        })?;
        ensure(h.key_heads > 0 && h.value_heads.is_multiple_of(h.key_heads), "delta_net", || {
            format!("{} value heads do not share {} key heads evenly", h.value_heads, h.key_heads)
        })?;
        ensure((1..=DeltaHeads::MAX_TAPS).contains(&h.taps), "delta_net", || format!("a convolution of {}", h.taps))?;
        let [z_at, b_at, a_at] = net.at;
        let ends = [h.channels(), z_at + h.inner(), b_at + h.value_heads, a_at + h.value_heads];
        ensure(x.rows == self.tokens && ends.iter().all(|end| *end <= x.columns), "delta_net", || {
            format!("q k v, z, b and a end at {ends:?} in [{}, {}], of {} tokens", x.rows, x.columns, self.tokens)
        })?;
        let floats = [h.taps * h.channels(), 2 * h.value_heads, h.value_dim];
        let sizes = [net.taps.size, net.gates.size, net.norm.weight.size];
        ensure(sizes.iter().zip(floats).all(|(size, floats)| *size >= 4 * floats as u64), "delta_net", || {
            format!("taps, gates and norm of {sizes:?} bytes for {floats:?} floats")
        })?;
        let kept = [state.conv.size, state.delta.size];
        ensure(kept.iter().zip(h.state()).all(|(size, floats)| *size >= 4 * floats as u64), "delta_net", || {
            format!("states of {kept:?} bytes for {:?} floats", h.state())
        })?;
        let qkv = self.short_conv(x, net, state)?;
        let out = self.tensor("delta", h.inner())?;
        if self.tokens >= self.tuning.delta_chunked {
            self.delta_rule_in_chunks(x, &qkv, &out, net, state)?;
            return Ok(out);
        }
        for first in (0..self.tokens).step_by(MOST_TOKENS) {
            self.delta_rule(x, &qkv, &out, net, state, first)?;
        }
        Ok(out)
    }

    fn short_conv(&mut self, x: &Tensor, net: &DeltaNet, state: &RecurrentLayer) -> Result<Tensor> {
        let h = &net.heads;
        let y = self.tensor("delta q k v", h.channels())?;
        self.recorder.call(Call {
            spec: self
                .reducing("short_conv", self.tuning.row)
                .size("KEY_DIM", h.key_dim as u32)
                .size("VALUE_DIM", h.value_dim as u32)
                .size("TAPS", h.taps as u32),
            bind: &[("x", &x.view), ("past", &state.conv), ("taps", &net.taps), ("y", &y.view)],
            params: ShortConvParams {
                key_heads: h.key_heads as u32,
                value_heads: h.value_heads as u32,
                stride: x.columns as u32,
                scale: 1.0 / (h.key_dim as f32).sqrt(),
                ..Default::default()
            },
            grid: Grid([(2 * h.key_heads + h.value_heads) as u32, 1, self.tokens as u32]),
            cost: Cost {
                other_bytes: (4 * h.channels() * (2 * self.tokens + 2 * h.taps)) as u64,
                flops: (2 * h.channels() * h.taps * self.tokens) as u64,
                ..Cost::default()
            },
        })?;
        Ok(y)
    }

    /// The delta rule over the tokens from `first` on, at most [`MOST_TOKENS`].
    fn delta_rule(
        &mut self,
        x: &Tensor,
        qkv: &Tensor,
        out: &Tensor,
        net: &DeltaNet,
        state: &RecurrentLayer,
        first: usize,
    ) -> Result<()> {
        let h = &net.heads;
        let end = self.tokens.min(first + MOST_TOKENS);
        let [z_at, b_at, a_at] = net.at;
        let elements = h.inner() * h.key_dim;
        self.recorder.call(Call {
            spec: KernelSpec::new("delta_net")
                .size("KEY_DIM", h.key_dim as u32)
                .size("VALUE_DIM", h.value_dim as u32)
                .size("TAPS", h.taps as u32)
                .size("TILE", TILE.min(h.value_dim) as u32)
                .flag("TILED", h.sharing == KeySharing::Tiled),
            bind: &[
                ("x", &x.view),
                ("qkv", &qkv.view),
                ("gates", &net.gates),
                ("norm", &net.norm.weight),
                ("delta", &state.delta),
                ("past", &state.conv),
                ("out", &out.view),
            ],
            params: DeltaNetParams {
                tokens: self.tokens as u32,
                first: first as u32,
                end: end as u32,
                heads: h.value_heads as u32,
                key_heads: h.key_heads as u32,
                stride: x.columns as u32,
                z_at: z_at as u32,
                b_at: b_at as u32,
                a_at: a_at as u32,
                eps: net.norm.eps,
                ..Default::default()
            },
            grid: Grid([h.value_heads as u32, 1, 1]),
            cost: Cost {
                other_bytes: (8 * elements + 4 * (end - first) * (h.channels() + 2 * h.inner())) as u64,
                flops: (7 * elements * (end - first)) as u64,
                ..Cost::default()
            },
        })?;
        Ok(())
    }
}
