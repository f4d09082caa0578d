//! The lightning indexer (DeepSeek-V3.2-Exp, section 2.1): a small attention of its own picks the positions that each token
//! attends to. Scores are made for a slice of the step's tokens at a time, never for all of a prompt.

use super::kv::{KEYS, KvRows, KvUse};
use super::{Error, KvFormat, KvLayer, Result, RopePairs, Step, Tensor, ensure};
use crate::gpu::{Call, Cost, Grid, KernelSpec, View, params};
use std::ops::Range;

params!(RowsParams { heads: u32, pairs: u32, stride: u32, at: u32, eps: f32, first_row: u32, rows: u32, first_z: u32 });
params!(ScoresParams {
    heads: u32,
    stride: u32,
    at: u32,
    first_token: u32,
    top_k: u32,
    score_stride: u32,
    ratio: u32,
    shard_rows: u32,
    first_z: u32
});
params!(SelectParams { first_token: u32, top_k: u32, score_stride: u32, ratio: u32, first_group: u32 });

/// The geometry and norm of an indexer.
pub struct Indexer {
    pub heads: usize,
    pub head_dim: usize,
    /// Lanes that turn, the first.
    pub rope_dim: usize,
    pub pairs: RopePairs,
    /// Positions that a token attends to at most.
    pub top_k: usize,
    /// f32 `[head_dim]` each: weights and biases of the keys' LayerNorm.
    pub norm: [View; 2],
    pub eps: f32,
}

/// The keys that tokens attend to: u32 [tokens, top_k], rising; of a token with fewer before it, all.
#[derive(Clone)]
pub struct Selection {
    pub positions: View,
    pub top_k: usize,
}

/// What scores an indexer's keys, and how many are chosen.
#[derive(Clone, Copy)]
pub struct IndexChoice {
    pub heads: usize,
    pub head_dim: usize,
    /// Keys that a token attends to at most.
    pub top_k: usize,
    /// Positions of a key. A token sees those whose positions are all up to its own.
    pub ratio: usize,
}

/// What the choice is made of.
#[derive(Clone, Copy)]
pub struct Indexing<'a> {
    /// [tokens, heads * head_dim], turned.
    pub q: &'a Tensor,
    /// [tokens, ..]: each row holds the heads' weights from column `at` on.
    pub a: &'a Tensor,
    pub at: usize,
    /// [keys, head_dim], f16 or f32
    pub keys: &'a KvRows,
    pub f16: bool,
}

/// Bytes of scores that live at once.
const SCORE_BYTES: usize = 64 << 20;
/// Heads whose queries are in workgroup memory at once, at most, and values of them.
const MOST_GROUP: usize = 8;
const MOST_VALUES: usize = 2048;
/// Workgroups that score the keys of one step's slice, about.
const SCORE_GROUPS: usize = 4096;

impl Indexer {
    /// Tokens that are scored at once against a cache of `positions`.
    pub fn slice(positions: usize) -> usize {
        (SCORE_BYTES / (4 * positions.next_multiple_of(4))).max(1)
    }
}

/// The kernel that scores keys of so many values, which have none beside them, so many heads at a time.
pub(super) fn scores_spec([wg, group, head_dim]: [u32; 3]) -> KernelSpec {
    let spec = KernelSpec::new("index_scores").size("WG", wg).size("GROUP", group);
    spec.size("KEY_DIM", head_dim).size("VALUE_DIM", head_dim).flag("LATENT", true)
}

fn key_bytes(head_dim: usize, f16: bool) -> usize {
    head_dim * if f16 { 2 } else { 4 }
}

impl Step<'_> {
    /// The choice of each token, from the indexer's queries `q` [tokens, heads * head_dim], which are turned in place, and
    /// rows of `a` [tokens, ..] that hold a key and the heads' weights from the columns `at` on. The key joins the cache
    /// [positions, head_dim].
    pub fn index(
        &mut self,
        q: &Tensor,
        a: &Tensor,
        at: [usize; 2],
        ix: &Indexer,
        rope: &View,
        layer: &KvLayer,
    ) -> Result<Selection> {
        let missing = || Error::Shape { op: "index", message: "a cache without an indexer's keys".into() };
        let (keys, f16) = (layer.index.as_ref().ok_or_else(missing)?, layer.format.of_index() == KvFormat::F16);
        let Indexer { heads, head_dim, rope_dim, top_k, .. } = *ix;
        ensure(q.rows == self.tokens && q.columns == heads * head_dim, "index", || {
            format!("queries [{}, {}], of {heads} heads of {head_dim}", q.rows, q.columns)
        })?;
        ensure(a.rows == self.tokens && at[0] + head_dim <= a.columns && at[1] + heads <= a.columns, "index", || {
            format!("a key and weights at {at:?} in [{}, {}]", a.rows, a.columns)
        })?;
        let turns = rope_dim.is_multiple_of(2) && rope_dim <= head_dim;
        ensure(heads > 0 && top_k > 0 && head_dim.is_multiple_of(4) && head_dim <= 1024 && turns, "index", || {
            format!("{heads} heads of {head_dim} (a multiple of 4), of which {rope_dim} turn; {top_k} positions")
        })?;
        ensure(ix.norm.iter().all(|view| view.size >= head_dim as u64 * 4), "index", || {
            "a norm that is too short".into()
        })?;
        let on = Indexing { q, a, at: at[1], keys, f16 };
        self.index_rows(&on, at[0], ix, rope)?;
        self.index_choice(&on, &IndexChoice { heads, head_dim, top_k, ratio: 1 })
    }

    /// The choice of each token among the keys.
    pub fn index_choice(&mut self, on: &Indexing, choice: &IndexChoice) -> Result<Selection> {
        let Indexing { q, a, at, keys, f16 } = *on;
        let IndexChoice { heads, head_dim, top_k, ratio } = *choice;
        ensure(q.rows == self.tokens && q.columns == heads * head_dim, "index", || {
            format!("queries [{}, {}], of {heads} heads of {head_dim}", q.rows, q.columns)
        })?;
        ensure(a.rows == self.tokens && at + heads <= a.columns, "index", || {
            format!("weights of {heads} heads at {at} in [{}, {}]", a.rows, a.columns)
        })?;
        ensure(heads > 0 && top_k > 0 && ratio > 0 && head_dim.is_multiple_of(4), "index", || {
            format!("{heads} heads of {head_dim} (a multiple of 4), {top_k} keys of {ratio} positions")
        })?;
        self.binds("index", keys, KvUse::Index)?;
        let count = keys.most_rows(key_bytes(head_dim, f16) as u64);
        let view = self.tensor("selected", top_k)?.view;
        let most = Indexer::slice(count).min(self.scratch.max_tokens);
        let stride = count.next_multiple_of(4);
        let scores = self.scratch.bytes(self.recorder.gpu(), "index scores", (most * stride * 4) as u64)?;
        for first in (0..self.tokens).step_by(most) {
            let tokens = most.min(self.tokens - first);
            self.index_scores(on, choice, first..first + tokens, &scores, stride)?;
            self.recorder.call(Call {
                spec: KernelSpec::new("index_select").size("WG", self.tuning.wide),
                bind: &[("scores", &scores), ("selected", &view)],
                params: SelectParams {
                    first_token: first as u32,
                    top_k: top_k as u32,
                    score_stride: stride as u32,
                    ratio: ratio as u32,
                    ..Default::default()
                },
                grid: Grid([tokens as u32, 1, 1]),
                cost: Cost {
                    other_bytes: (tokens * top_k * 4) as u64,
                    position_bytes: (6 * 4 * tokens).div_ceil(ratio) as u64,
                    ..Cost::default()
                },
            })?;
        }
        Ok(Selection { positions: view, top_k })
    }

    /// Turns the queries, and adds the tokens' keys, which lie from column `at` on.
    fn index_rows(&mut self, on: &Indexing, at: usize, ix: &Indexer, rope: &View) -> Result<()> {
        let Indexing { q, a, keys, f16, .. } = *on;
        let wg = self.tuning.row;
        for part in keys.parts(keys.rows(key_bytes(ix.head_dim, f16) as u64)) {
            // The queries turn beside the first shard.
            let heads = if part.first == 0 { ix.heads } else { 0 };
            let groups = 1 + (heads * ix.rope_dim / 2).div_ceil(wg as usize);
            let lanes = 2 * heads * ix.rope_dim + 2 * ix.head_dim;
            let spec = self.reducing("index_rows", wg).size("HEAD_DIM", ix.head_dim as u32);
            self.recorder.call(Call {
                spec: spec.flag("ADJACENT", ix.pairs == RopePairs::Adjacent).flag("KV_F16", f16),
                bind: &[
                    ("q", &q.view),
                    ("a", &a.view),
                    ("rope", rope),
                    ("norm", &ix.norm[0]),
                    ("norm_bias", &ix.norm[1]),
                    ("keys", part.view),
                ],
                params: RowsParams {
                    heads: heads as u32,
                    pairs: (ix.rope_dim / 2) as u32,
                    stride: a.columns as u32,
                    at: at as u32,
                    eps: ix.eps,
                    first_row: part.first as u32,
                    rows: part.rows as u32,
                    ..Default::default()
                },
                grid: Grid([groups as u32, 1, self.tokens as u32]),
                cost: Cost { other_bytes: (4 * lanes * self.tokens) as u64, ..Cost::default() },
            })?;
        }
        Ok(())
    }

    fn index_scores(
        &mut self,
        on: &Indexing,
        ix: &IndexChoice,
        tokens: Range<usize>,
        scores: &View,
        stride: usize,
    ) -> Result<()> {
        let Indexing { q, a, at, keys, f16 } = *on;
        let wg = self.tuning.row;
        let fits = |group: &usize| ix.heads.is_multiple_of(*group) && group * ix.head_dim <= MOST_VALUES;
        let group = (1..=MOST_GROUP).rev().find(fits).unwrap_or(1);
        let tiles = stride.div_ceil(wg as usize);
        let mut bind = vec![("q", &q.view), ("a", &a.view), ("scores", scores)];
        bind.extend(keys.bind(&KEYS));
        self.recorder.call(Call {
            spec: keys.beside(scores_spec([wg, group as u32, ix.head_dim as u32]).flag("KV_F16", f16)),
            bind: &bind,
            params: ScoresParams {
                heads: ix.heads as u32,
                stride: a.columns as u32,
                at: at as u32,
                first_token: tokens.start as u32,
                top_k: ix.top_k as u32,
                score_stride: stride as u32,
                ratio: ix.ratio as u32,
                shard_rows: keys.shard_rows(1),
                ..Default::default()
            },
            grid: Grid([tiles.min((SCORE_GROUPS / tokens.len()).max(16)) as u32, 1, tokens.len() as u32]),
            cost: Cost {
                position_bytes: (tokens.len() * (key_bytes(ix.head_dim, f16) + 4)).div_ceil(ix.ratio) as u64,
                position_flops: (2 * tokens.len() * ix.heads * ix.head_dim).div_ceil(ix.ratio) as u64,
                ..Cost::default()
            },
        })?;
        Ok(())
    }
}
