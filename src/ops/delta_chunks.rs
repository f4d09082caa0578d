//! The delta rule in chunks (arXiv 2412.06464, section 3.3): what each chunk of tokens does by itself, all at once, then the
//! states through the chunks, then the gated norm.

use super::delta_net::{DeltaHeads, DeltaNet, KeySharing, RecurrentLayer};
use super::{Result, Step, Tensor};
use crate::gpu::{Call, Cost, Grid, KernelSpec, View, params};

params!(ChunksParams {
    first: u32,
    end: u32,
    heads: u32,
    key_heads: u32,
    stride: u32,
    b_at: u32,
    a_at: u32,
    first_z: u32,
});
params!(StatesParams { first: u32, end: u32, heads: u32, key_heads: u32, first_group: u32 });
params!(NormParams { tokens: u32, heads: u32, channels: u32, stride: u32, z_at: u32, eps: f32, first_z: u32 });

/// Tokens of a chunk.
const CHUNK: usize = 32;
/// Columns of a state that go through the chunks in one workgroup.
const SLICE: usize = 16;
/// Tokens of one dispatch: bounds its scratch memory, and lavapipe ends an invocation after 65,535 rounds of its loops.
const MOST_TOKENS: usize = 2048;

impl DeltaHeads {
    /// Floats that each token of a value head puts down for the states: a row of T, one of M, two decays.
    pub const CHUNK_FLOATS: usize = 2 * CHUNK + 2;
}

impl Step<'_> {
    /// The delta rule and its norm, over all tokens, into `out`.
    pub(super) fn delta_rule_in_chunks(
        &mut self,
        x: &Tensor,
        qkv: &Tensor,
        out: &Tensor,
        net: &DeltaNet,
        state: &RecurrentLayer,
    ) -> Result<()> {
        let tokens = self.scratch.max_tokens.min(MOST_TOKENS).next_multiple_of(CHUNK);
        let bytes = 4 * tokens * net.heads.value_heads * DeltaHeads::CHUNK_FLOATS;
        let chunks = self.scratch.bytes(self.recorder.gpu(), "delta chunks", bytes as u64)?;
        for first in (0..self.tokens).step_by(MOST_TOKENS) {
            let end = self.tokens.min(first + MOST_TOKENS);
            self.delta_chunks(x, qkv, &chunks, net, [first, end])?;
            self.delta_states(qkv, &chunks, out, net, state, [first, end])?;
        }
        self.delta_norm(x, out, net, state)
    }

    fn delta_chunks(
        &mut self,
        x: &Tensor,
        qkv: &Tensor,
        chunks: &View,
        net: &DeltaNet,
        [first, end]: [usize; 2],
    ) -> Result<()> {
        let h = &net.heads;
        let (tokens, [_, b_at, a_at]) = (end - first, net.at);
        let read = 2 * h.key_heads * h.key_dim + h.value_heads * (2 + DeltaHeads::CHUNK_FLOATS);
        self.recorder.call(Call {
            spec: chunked("delta_chunks", net),
            bind: &[("x", &x.view), ("qkv", &qkv.view), ("gates", &net.gates), ("chunks", chunks)],
            params: ChunksParams {
                first: first as u32,
                end: end as u32,
                heads: h.value_heads as u32,
                key_heads: h.key_heads as u32,
                stride: x.columns as u32,
                b_at: b_at as u32,
                a_at: a_at as u32,
                ..Default::default()
            },
            grid: Grid([h.key_heads as u32, 1, tokens.div_ceil(CHUNK) as u32]),
            cost: Cost {
                other_bytes: (4 * tokens * read) as u64,
                flops: (4 * CHUNK * tokens * h.key_heads * h.key_dim) as u64,
                ..Cost::default()
            },
        })?;
        Ok(())
    }

    fn delta_states(
        &mut self,
        qkv: &Tensor,
        chunks: &View,
        out: &Tensor,
        net: &DeltaNet,
        state: &RecurrentLayer,
        [first, end]: [usize; 2],
    ) -> Result<()> {
        let h = &net.heads;
        let (tokens, elements) = (end - first, h.inner() * h.key_dim);
        self.recorder.call(Call {
            spec: chunked("delta_states", net),
            bind: &[("qkv", &qkv.view), ("chunks", chunks), ("delta", &state.delta), ("out", &out.view)],
            params: StatesParams {
                first: first as u32,
                end: end as u32,
                heads: h.value_heads as u32,
                key_heads: h.key_heads as u32,
                ..Default::default()
            },
            grid: Grid([(h.value_heads * h.value_dim.div_ceil(SLICE)) as u32, 1, 1]),
            cost: Cost {
                other_bytes: (8 * elements
                    + 4 * tokens * (h.channels() + h.inner() + h.value_heads * DeltaHeads::CHUNK_FLOATS))
                    as u64,
                flops: (tokens * (6 * elements + 4 * CHUNK * h.inner())) as u64,
                ..Cost::default()
            },
        })?;
        Ok(())
    }

    fn delta_norm(&mut self, x: &Tensor, out: &Tensor, net: &DeltaNet, state: &RecurrentLayer) -> Result<()> {
        let h = &net.heads;
        self.recorder.call(Call {
            spec: self
                .reducing("delta_norm", self.tuning.row)
                .size("VALUE_DIM", h.value_dim as u32)
                .size("TAPS", h.taps as u32),
            bind: &[("x", &x.view), ("norm", &net.norm.weight), ("past", &state.conv), ("out", &out.view)],
            params: NormParams {
                tokens: self.tokens as u32,
                heads: h.value_heads as u32,
                channels: h.channels() as u32,
                stride: x.columns as u32,
                z_at: net.at[0] as u32,
                eps: net.norm.eps,
                ..Default::default()
            },
            grid: Grid([h.value_heads as u32, 1, self.tokens as u32]),
            cost: Cost { other_bytes: (4 * self.tokens * 3 * h.inner()) as u64, ..Cost::default() },
        })?;
        Ok(())
    }
}

fn chunked(shader: &'static str, net: &DeltaNet) -> KernelSpec {
    KernelSpec::new(shader)
        .size("KEY_DIM", net.heads.key_dim as u32)
        .size("VALUE_DIM", net.heads.value_dim as u32)
        .flag("TILED", net.heads.sharing == KeySharing::Tiled)
}
