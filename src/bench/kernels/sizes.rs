//! The sizes of real models, as the presets have them, and the few that are measured where nobody names a model.

use crate::formats::Format;
use crate::gguf::TensorInfo;
use crate::gpu::DeviceClass;
use crate::ops::{DeltaHeads, KeySharing, MAX_HEAD_DIM};
use crate::presets::{self, Mixture, ModelPreset};

/// What operators need to know of a model.
#[derive(Clone, Debug, Default)]
pub struct Sizes {
    /// [rows, columns]; those that read the same input joined, as in a decode step.
    pub matrices: Vec<[usize; 2]>,
    /// The same where several tokens meet them: a software device takes a smaller one.
    pub tiled: Vec<[usize; 2]>,
    /// Tokens of a prefill, and positions cached before a decode step's.
    pub prefill: usize,
    pub cached: usize,
    pub mixture: Option<Mixed>,
    /// What does not depend on block formats.
    pub rows: Option<Rows>,
    pub attention: Option<Grouped>,
    pub latent: Option<Latent>,
    pub index: Option<Index>,
    pub delta: Option<DeltaHeads>,
    pub compressed: Option<Compressed>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mixed {
    pub experts: usize,
    pub used: usize,
    pub ff: usize,
    pub hidden: usize,
    /// Of a choice by sigmoids: groups, and how many of them are used.
    pub groups: Option<(usize, usize)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rows {
    pub hidden: usize,
    pub vocabulary: usize,
}

/// Attention whose heads share keys and values in groups.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Grouped {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Latent {
    pub heads: usize,
    pub rank: usize,
    pub rope_dim: usize,
    /// Lanes of a head that do not turn.
    pub nope: usize,
    pub value_dim: usize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Index {
    pub heads: usize,
    pub head_dim: usize,
    pub rope_dim: usize,
    pub top_k: usize,
}

/// Attention over a window and entries, of which an indexer picks some, in streams of `hidden` columns.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Compressed {
    pub hidden: usize,
    pub heads: usize,
    pub head_dim: usize,
    pub rope_dim: usize,
    pub window: usize,
    pub top_k: usize,
}

/// Matrices of a layer that read the same input.
const JOINED: &[&[&str]] = &[
    &["attn_q", "attn_k", "attn_v"],
    &["attn_q_a", "attn_kv_a_mqa", "attn_kv"],
    &["attn_qkv", "attn_gate", "ssm_ba", "ssm_alpha", "ssm_beta"],
    &["ffn_gate", "ffn_up"],
    &["ffn_gate_shexp", "ffn_up_shexp"],
];
/// Tokens of a prefill.
const PREFILL: usize = 512;
/// Positions of a decode step's cache.
const CACHED: usize = 8191;

impl Sizes {
    /// A mixture of the size of Qwen3-30B-A3B's layers, with latent attention, an indexer and a delta net beside; smaller on
    /// a software device.
    pub fn usual(class: DeviceClass) -> Sizes {
        let cpu = class == DeviceClass::Cpu;
        let or = |gpu: usize, small: usize| if cpu { small } else { gpu };
        let latent = Latent { heads: or(128, 16), rank: 512, rope_dim: 64, nope: 128, value_dim: 128 };
        let (key_heads, value_heads) = (or(16, 4), or(32, 8));
        Sizes {
            matrices: if cpu { vec![[2048, 2048]] } else { vec![[4096, 4096], [16_384, 8192]] },
            tiled: vec![[or(4096, 1024); 2]],
            prefill: or(PREFILL, 128),
            cached: or(CACHED, 1023),
            mixture: Some(Mixed { experts: 128, used: 8, ff: 768, hidden: 2048, groups: None }),
            rows: Some(Rows { hidden: 2048, vocabulary: 151_936 }),
            attention: Some(Grouped { heads: 32, kv_heads: 4, head_dim: 128 }),
            latent: Some(latent),
            index: Some(Index { heads: or(64, 8), head_dim: 128, rope_dim: 64, top_k: or(2048, 256) }),
            delta: Some(DeltaHeads {
                key_heads,
                value_heads,
                key_dim: 128,
                value_dim: 128,
                taps: 4,
                sharing: KeySharing::Grouped,
            }),
            compressed: Some(Compressed {
                hidden: or(4096, 1024),
                heads: or(64, 8),
                head_dim: or(512, 128),
                rope_dim: 64,
                window: 128,
                top_k: or(512, 128),
            }),
        }
    }

    /// Matrices [rows, columns] alone, and experts [ff, hidden] of those sides.
    pub fn of_shapes(shapes: &[[usize; 2]], class: DeviceClass) -> Vec<Sizes> {
        let of = |shape: &[usize; 2]| {
            let [ff, hidden] = *shape;
            let prefill = Sizes::usual(class).prefill;
            let mixture = Some(Mixed { experts: 128, used: 8, ff, hidden, groups: None });
            Sizes { matrices: vec![*shape], tiled: vec![*shape], prefill, mixture, ..Sizes::default() }
        };
        shapes.iter().map(of).collect()
    }

    /// Those of a model.
    pub fn of(model: &ModelPreset) -> presets::Result<Sizes> {
        let tensors = model.tensors(model.layers(), Mixture::Pure(Format::F16))?;
        let matrices = matrices(&tensors);
        let hidden = model.size("embedding_length").expect("the tests ask every model");
        let down = tensors.iter().find(|t| t.name.ends_with("ffn_down_exps.weight"));
        let mixture = model.experts().zip(down).map(|((experts, used), down)| Mixed {
            experts,
            used,
            ff: down.dims[0] as usize,
            hidden: down.dims[1] as usize,
            groups: (model.size("expert_gating_func") == Some(2)).then(|| {
                let of = |key| model.size(key).unwrap_or(1);
                (of("expert_group_count"), of("expert_group_used_count"))
            }),
        });
        let (heads, rank) = (model.heads()?, model.size("attention.kv_lora_rank"));
        let grouped = Grouped { heads: heads.heads, kv_heads: heads.kv / heads.head_dim, head_dim: heads.head_dim };
        Ok(Sizes {
            tiled: matrices.clone(),
            matrices,
            prefill: PREFILL,
            cached: CACHED,
            mixture,
            rows: Some(Rows { hidden, vocabulary: model.vocabulary() }),
            attention: (rank.is_none() && heads.head_dim <= MAX_HEAD_DIM).then_some(grouped),
            latent: latent(model),
            index: index(model),
            delta: delta(model),
            compressed: compressed(model),
        })
    }
}

fn latent(model: &ModelPreset) -> Option<Latent> {
    let rope_dim = model.size("rope.dimension_count")?;
    Some(Latent {
        heads: model.size("attention.head_count")?,
        rank: model.size("attention.kv_lora_rank")?,
        rope_dim,
        nope: model.size("attention.key_length_mla")? - rope_dim,
        value_dim: model.size("attention.value_length_mla")?,
    })
}

fn index(model: &ModelPreset) -> Option<Index> {
    Some(Index {
        heads: model.size("attention.indexer.head_count")?,
        head_dim: model.size("attention.indexer.key_length")?,
        rope_dim: model.size("rope.dimension_count")?,
        top_k: model.size("attention.indexer.top_k")?,
    })
}

fn compressed(model: &ModelPreset) -> Option<Compressed> {
    model.size("hyper_connection.count")?;
    Some(Compressed {
        hidden: model.size("embedding_length")?,
        heads: model.size("attention.head_count")?,
        head_dim: model.size("attention.key_length")?,
        rope_dim: model.size("rope.dimension_count")?,
        window: model.size("attention.sliding_window")?,
        top_k: model.size("attention.indexer.top_k")?,
    })
}

fn delta(model: &ModelPreset) -> Option<DeltaHeads> {
    let (inner, value_heads) = (model.size("ssm.inner_size")?, model.size("ssm.time_step_rank")?);
    Some(DeltaHeads {
        key_heads: model.size("ssm.group_count")?,
        value_heads,
        key_dim: model.size("ssm.state_size")?,
        value_dim: inner / value_heads,
        taps: model.size("ssm.conv_kernel")?,
        sharing: KeySharing::Grouped,
    })
}

/// The shapes of all matrices that are not experts, each once.
fn matrices(tensors: &[TensorInfo]) -> Vec<[usize; 2]> {
    let tied = tensors.iter().all(|t| t.name != "output.weight");
    let sides = |t: &TensorInfo| [t.dims[1] as usize, t.dims[0] as usize];
    let (mut inputs, mut matrices) = (Vec::<Option<(&str, usize)>>::new(), Vec::<[usize; 2]>::new());
    for t in tensors.iter().filter(|t| t.ggml_type == Format::F16.ggml() && t.dims.len() == 2) {
        if t.name == "token_embd.weight" && !tied {
            continue;
        }
        let (layer, what) = t.name.trim_end_matches(".weight").rsplit_once('.').unwrap_or(("", &t.name));
        let input = JOINED.iter().position(|names| names.contains(&what)).map(|joined| (layer, joined));
        match inputs.iter().position(|i| input.is_some() && *i == input) {
            Some(at) => matrices[at] = [matrices[at][0] + sides(t)[0], sides(t)[1]],
            None => {
                inputs.push(input);
                matrices.push(sides(t));
            }
        }
    }
    let mut unique = Vec::new();
    for sides in matrices {
        if !unique.contains(&sides) {
            unique.push(sides);
        }
    }
    unique
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presets::models;

    #[test]
    fn matrices_that_read_the_same_input_are_one() {
        let sizes = |name| Sizes::of(ModelPreset::named(name).unwrap()).unwrap();
        let qwen = sizes("qwen3-30b-a3b");
        assert_eq!(qwen.matrices, [[151_936, 2048], [5120, 2048], [2048, 4096]]);
        assert_eq!(qwen.mixture, Some(Mixed { experts: 128, used: 8, ff: 768, hidden: 2048, groups: None }));
        assert_eq!(qwen.attention, Some(Grouped { heads: 32, kv_heads: 4, head_dim: 128 }));
        assert_eq!(sizes("gemma-3-27b").matrices[0], [262_144, 5376]);
        models().iter().for_each(|model| assert!(!Sizes::of(model).unwrap().matrices.is_empty()));
    }

    #[test]
    fn latents_indexers_and_delta_nets_are_found() {
        let sizes = |name| Sizes::of(ModelPreset::named(name).unwrap()).unwrap();
        let deepseek = sizes("deepseek-v3.1");
        assert!([[2112, 7168], [24_576, 1536], [36_864, 7168]].iter().all(|m| deepseek.matrices.contains(m)));
        let latent = Latent { heads: 128, rank: 512, rope_dim: 64, nope: 128, value_dim: 128 };
        assert_eq!((deepseek.attention, deepseek.latent), (None, Some(latent)));
        assert_eq!(deepseek.mixture.unwrap().groups, Some((8, 4)));
        assert_eq!(sizes("glm-5").index.unwrap().top_k, 2048);
        let (hidden, heads, head_dim, rope_dim, window, top_k) = (7168, 128, 512, 64, 128, 1024);
        let pro = Compressed { hidden, heads, head_dim, rope_dim, window, top_k };
        assert_eq!(sizes("deepseek-v4-pro").compressed, Some(pro));
        assert_eq!(sizes("qwen3-next-80b-a3b").delta.unwrap().inner(), 4096);
    }
}
