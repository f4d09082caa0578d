//! Shapes of real models, as the presets have them.

use super::Case;
use crate::formats::Format;
use crate::gguf::TensorInfo;
use crate::gpu::DeviceClass;
use crate::presets::{self, Mixture, ModelPreset};

/// The matrices of a model.
struct Preset {
    /// [rows, columns]; those that read the same input joined, as in a decode step.
    matrices: Vec<[usize; 2]>,
    /// [experts, used, ff, hidden]
    experts: Option<[usize; 4]>,
    /// [heads, kv_heads, head_dim], where there is a kernel.
    attention: Option<[usize; 3]>,
}

/// Matrices of a layer that read the same input.
const JOINED: &[&[&str]] = &[
    &["attn_q", "attn_k", "attn_v"],
    &["attn_q_a", "attn_kv_a_mqa", "attn_kv"],
    &["attn_qkv", "attn_gate", "ssm_ba", "ssm_alpha", "ssm_beta"],
    &["ffn_gate", "ffn_up"],
    &["ffn_gate_shexp", "ffn_up_shexp"],
];
/// Of the attention kernel; latent attention has none yet.
const MAX_HEAD_DIM: usize = 256;

impl Preset {
    fn of(model: &ModelPreset) -> presets::Result<Preset> {
        let tensors = model.tensors(model.layers(), Mixture::Pure(Format::F16))?;
        let tied = tensors.iter().all(|t| t.name != "output.weight");
        let sides = |t: &TensorInfo| [t.dims[1] as usize, t.dims[0] as usize];
        let (mut inputs, mut matrices) = (Vec::<Option<(&str, usize)>>::new(), Vec::<[usize; 2]>::new());
        let mut experts = None;
        for t in tensors.iter().filter(|t| t.ggml_type == Format::F16.ggml()) {
            let (layer, what) = t.name.trim_end_matches(".weight").rsplit_once('.').unwrap_or(("", &t.name));
            if let (Some((count, used)), "ffn_down_exps") = (model.experts(), what) {
                experts = Some([count, used, t.dims[0] as usize, t.dims[1] as usize]);
            }
            if t.dims.len() != 2 || (t.name == "token_embd.weight" && !tied) {
                continue;
            }
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
        let heads = model.heads()?;
        let attention = [heads.heads, heads.kv / heads.head_dim, heads.head_dim];
        let attention = (heads.head_dim <= MAX_HEAD_DIM).then_some(attention);
        Ok(Preset { matrices: unique, experts, attention })
    }
}

/// What to measure; an empty list stands for the usual.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    pub ops: Vec<String>,
    pub formats: Vec<Format>,
    /// [rows, columns] of matrices; of experts [ff, hidden].
    pub shapes: Vec<[usize; 2]>,
    pub presets: Vec<&'static ModelPreset>,
}

/// Tokens of a prefill.
const PREFILL: usize = 512;

impl Selection {
    pub const OPS: [&'static str; 5] = ["matvec", "experts", "matmul", "decode", "prefill"];

    /// The cases, and the names of what the formats cannot hold.
    pub fn cases(&self, class: DeviceClass) -> (Vec<Case>, Vec<String>) {
        let mut cases = if self.presets.is_empty() { self.usual(class) } else { self.of_presets() };
        cases.retain(|case| self.ops.is_empty() || self.ops.iter().any(|op| op == case.op()));
        cases.sort_by_key(|case| Self::OPS.iter().position(|op| *op == case.op()));
        let fits = |case: &Case| match case {
            Case::Linear { format, columns, .. } => columns.is_multiple_of(format.block().max(4)),
            Case::Experts { format, ff, hidden, .. } => {
                [ff, hidden].iter().all(|n| n.is_multiple_of(format.block().max(4)))
            }
            Case::Attention { .. } => true,
        };
        let (cases, others): (Vec<Case>, Vec<Case>) = cases.into_iter().partition(fits);
        (cases, others.iter().map(Case::name).collect())
    }

    /// A few formats at a shape that suits the device.
    fn usual(&self, class: DeviceClass) -> Vec<Case> {
        use Format::*;
        let cpu = class == DeviceClass::Cpu;
        let or = |default: &[Format]| if self.formats.is_empty() { default.to_vec() } else { self.formats.clone() };
        let shapes =
            |default: &[[usize; 2]]| if self.shapes.is_empty() { default.to_vec() } else { self.shapes.clone() };
        let (matvec, matmul): (&[_], _) =
            if cpu { (&[[2048, 2048]], [1024, 1024]) } else { (&[[4096, 4096], [16_384, 8192]], [4096, 4096]) };
        let mut cases = Vec::new();
        for format in or(&[Q4K, Q6K, Q8_0, MXFP4, F16]) {
            cases.extend(linear(format, &shapes(matvec), 1));
        }
        for format in or(&[Q4K]) {
            cases.extend(linear(format, &shapes(&[matmul]), PREFILL));
            let expert = |[ff, hidden]: [usize; 2]| Case::Experts { format, experts: 128, used: 8, ff, hidden };
            cases.extend(shapes(&[[768, 2048]]).into_iter().map(expert));
        }
        if self.formats.is_empty() && self.shapes.is_empty() {
            let (cached, tokens) = if cpu { (1024, 128) } else { (8192, PREFILL) };
            cases.extend(attention([32, 4, 128], cached, tokens));
        }
        cases
    }

    fn of_presets(&self) -> Vec<Case> {
        let formats = if self.formats.is_empty() { vec![Format::Q4K, Format::Q8_0] } else { self.formats.clone() };
        let mut cases = Vec::new();
        for model in &self.presets {
            let preset = Preset::of(model).expect("the tests ask every model");
            for &format in &formats {
                cases.extend(linear(format, &preset.matrices, 1));
                cases.extend(linear(format, &preset.matrices, PREFILL));
                let experts = preset.experts.iter();
                cases.extend(experts.map(|&[experts, used, ff, hidden]| Case::Experts {
                    format,
                    experts,
                    used,
                    ff,
                    hidden,
                }));
            }
            cases.extend(preset.attention.iter().flat_map(|heads| attention(*heads, 8192, PREFILL)));
        }
        cases
    }
}

fn linear(format: Format, shapes: &[[usize; 2]], tokens: usize) -> impl Iterator<Item = Case> {
    shapes.iter().map(move |&[rows, columns]| Case::Linear { format, rows, columns, tokens })
}

fn attention([heads, kv_heads, head_dim]: [usize; 3], cached: usize, tokens: usize) -> [Case; 2] {
    [(1, cached - 1), (tokens, 0)].map(|(tokens, before)| Case::Attention { heads, kv_heads, head_dim, tokens, before })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presets::models;

    #[test]
    fn selections_narrow_and_leave_out_what_no_block_fits() {
        let selection = Selection {
            ops: vec!["matvec".into()],
            formats: vec![Format::Q4K, Format::MXFP4],
            presets: vec![ModelPreset::named("gpt-oss-120b").unwrap()],
            ..Selection::default()
        };
        let (cases, others) = selection.cases(DeviceClass::Gpu);
        assert!(cases.iter().all(|c| c.op() == "matvec"));
        // 2880 columns are no multiple of 256, 4096 are.
        assert_eq!((cases.len(), others.len()), (4, 2));
        assert_eq!(others[0], "matvec q4_k 201088x2880");
    }

    #[test]
    fn matrices_that_read_the_same_input_are_one() {
        let preset = |name| Preset::of(ModelPreset::named(name).unwrap()).unwrap();
        let qwen = preset("qwen3-30b-a3b");
        assert_eq!(qwen.matrices, [[151_936, 2048], [5120, 2048], [2048, 4096]]);
        assert_eq!(qwen.experts, Some([128, 8, 768, 2048]));
        assert_eq!(qwen.attention, Some([32, 4, 128]));
        let deepseek = preset("deepseek-v3.1");
        assert!([[2112, 7168], [24_576, 1536], [36_864, 7168]].iter().all(|m| deepseek.matrices.contains(m)));
        assert_eq!(deepseek.attention, None);
        assert_eq!(preset("gemma-3-27b").matrices[0], [262_144, 5376]);
        models().iter().for_each(|model| assert!(!Preset::of(model).unwrap().matrices.is_empty()));
    }

    #[test]
    fn the_usual_selection_has_every_operator() {
        let (cases, others) = Selection::default().cases(DeviceClass::Cpu);
        assert!(Selection::OPS.iter().all(|op| cases.iter().any(|c| c.op() == *op)));
        assert!(others.is_empty());
    }
}
