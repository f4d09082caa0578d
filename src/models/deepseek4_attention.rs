//! DeepSeek-V4's attention: over a window's rows, and over entries that stand for 4 or 128 positions, of which an indexer picks
//! the best 4s.

use super::Result;
use super::blocks::Transformer;
use super::deepseek4::{INDEXED, Sizes};
use crate::gpu::View;
use crate::memory::{KvFormat, Weights};
use crate::ops::{
    CompressedAttention, CompressedLayer, Compressor, Entry, IndexChoice, IndexQueries, Indexing, Joint, Matrix, Norm,
    Stack, Step, Tensor,
};

/// The first half of a layer.
pub struct AttentionBlock {
    norm: Norm,
    /// To what all queries are made of, to the window's row, and to what compressors read.
    latents: Joint,
    /// First output of the window's row.
    row_at: usize,
    q_norm: Norm,
    q_b: Matrix,
    attention: CompressedAttention,
    /// What makes entries of positions, and the first outputs of its values and gates.
    compressor: Option<(Compressor, [usize; 2])>,
    indexer: Option<IndexerBlock>,
    /// [groups, rank, columns of a group's heads]
    output_a: Stack,
    output_b: Matrix,
}

/// What picks the entries that tokens see.
struct IndexerBlock {
    q_b: Matrix,
    compressor: Compressor,
    at: [usize; 2],
    /// First output of the heads' weights.
    weights_at: usize,
    choice: IndexChoice,
}

impl AttentionBlock {
    pub fn load(weights: &mut Weights, sizes: &Sizes, layer: usize) -> Result<Self> {
        let name = |what: &str| format!("blk.{layer}.{what}.weight");
        let Sizes { t, q_rank, index, .. } = sizes;
        let ratio = sizes.ratios[layer];
        let indexed = ratio == Some(INDEXED);
        let (width, index_width) = (Compressor::width(t.head_dim, indexed), Compressor::width(index.head_dim, true));
        let mut parts = vec![(name("attn_q_a"), *q_rank), (name("attn_kv"), t.head_dim)];
        for (what, width) in [("attn", ratio.map(|_| width)), ("indexer", indexed.then_some(index_width))] {
            let rows = ["kv", "gate"].map(|part| name(&format!("{what}_compressor_{part}")));
            parts.extend(width.into_iter().flat_map(|width| rows.clone().map(|name| (name, width))));
        }
        parts.extend(indexed.then(|| (name("indexer.proj"), index.heads)));
        let parts: Vec<(&str, usize)> = parts.iter().map(|(name, rows)| (name.as_str(), *rows)).collect();
        let (latents, at) = weights.joint(&parts, &[], t.hidden)?;
        let group = t.heads / sizes.groups * t.head_dim;
        Ok(AttentionBlock {
            norm: t.norm(weights, &name("attn_norm"), t.hidden)?,
            latents,
            row_at: at[1],
            q_norm: t.norm(weights, &name("attn_q_a_norm"), *q_rank)?,
            q_b: weights.matrix(&name("attn_q_b"), t.heads * t.head_dim, *q_rank)?,
            attention: CompressedAttention {
                heads: t.heads,
                head_dim: t.head_dim,
                rope_dim: t.rope_dim,
                scale: 1.0 / (t.head_dim as f32).sqrt(),
                window: sizes.window,
                ratio,
                sinks: weights.vector(&name("attn_sinks"), t.heads)?,
                norm: t.norm(weights, &name("attn_kv_a_norm"), t.head_dim)?,
            },
            compressor: match ratio {
                Some(ratio) => Some((compressor(weights, t, layer, "attn", t.head_dim, ratio)?, [at[2], at[3]])),
                None => None,
            },
            indexer: match indexed {
                true => Some(IndexerBlock {
                    q_b: weights.matrix(&name("indexer.attn_q_b"), index.heads * index.head_dim, *q_rank)?,
                    compressor: compressor(weights, t, layer, "indexer", index.head_dim, INDEXED)?,
                    at: [at[4], at[5]],
                    weights_at: at[6],
                    choice: *index,
                }),
                false => None,
            },
            output_a: weights.groups(&name("attn_output_a"), sizes.groups, sizes.out_rank, group)?,
            output_b: weights.matrix(&name("attn_output_b"), t.hidden, sizes.groups * sizes.out_rank)?,
        })
    }

    /// output(attention(norm(x))): x and the result [tokens, hidden]
    pub fn record(&self, step: &mut Step, x: &Tensor, cache: &CompressedLayer, ropes: &[View]) -> Result<Tensor> {
        let rope = &ropes[usize::from(self.compressor.is_some())];
        let a = step.norm_joint("latents", x, &self.norm, &self.latents)?; // [tokens, q_rank + head_dim + ..]
        let q = step.norm_part_linear("q", &a, &self.q_norm, &self.q_b)?; // [tokens, heads * head_dim]
        let index_q = match &self.indexer {
            Some(ix) => Some(step.norm_part_linear("index q", &a, &self.q_norm, &ix.q_b)?),
            None => None,
        };
        let queries = self.indexer.as_ref().zip(index_q.as_ref());
        let queries = queries.map(|(ix, q)| IndexQueries { q, heads: ix.choice.heads });
        step.window_rows(&q, (&a, self.row_at), queries, &self.attention, rope, cache)?; // norms, rope, the window's rows
        if let Some((compressor, at)) = &self.compressor {
            step.compress(&a, *at, compressor, rope, cache, Entry::Row)?;
        }
        let selection = match (&self.indexer, &index_q, &cache.kv.index) {
            (Some(ix), Some(q), Some(keys)) => {
                step.compress(&a, ix.at, &ix.compressor, rope, cache, Entry::IndexKey)?;
                let on = Indexing { q, a: &a, at: ix.weights_at, keys, f16: cache.kv.format == KvFormat::F16 };
                Some(step.index_choice(&on, &ix.choice)?) // [tokens, top_k]
            }
            _ => None,
        };
        let attended = step.compressed_attention(&q, &self.attention, rope, cache, selection.as_ref())?;
        let groups = step.grouped_linear("groups", &attended, &self.output_a)?; // [tokens, groups * rank]
        Ok(step.project("branch", &groups, &self.output_b)?)
    }
}

fn compressor(
    weights: &mut Weights,
    t: &Transformer,
    layer: usize,
    what: &str,
    head_dim: usize,
    ratio: usize,
) -> Result<Compressor> {
    let name = |part: &str| format!("blk.{layer}.{what}_compressor_{part}.weight");
    let overlap = ratio == INDEXED;
    let place = weights.host_rows(&name("ape"), ratio, Compressor::width(head_dim, overlap))?;
    Ok(Compressor {
        ratio,
        overlap,
        head_dim,
        rope_dim: t.rope_dim,
        place: weights.upload(&name("ape"), &place)?,
        norm: t.norm(weights, &name("norm"), head_dim)?,
    })
}
