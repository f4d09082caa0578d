//! Shapes of real models, from their published configurations.

use super::Case;
use crate::formats::Format;
use crate::gpu::DeviceClass;

/// The matrices of a model.
pub struct Preset {
    pub name: &'static str,
    /// [rows, columns]; those that read the same input joined, as in a decode step.
    pub matrices: &'static [[usize; 2]],
    /// [experts, used, ff, hidden]
    pub experts: Option<[usize; 4]>,
    /// [heads, kv_heads, head_dim]
    pub attention: Option<[usize; 3]>,
}

/// Latent attention (DeepSeek) has no kernel yet.
pub const PRESETS: &[Preset] = &[
    Preset {
        name: "qwen3-30b-a3b",
        matrices: &[[5120, 2048], [2048, 4096], [151_936, 2048]],
        experts: Some([128, 8, 768, 2048]),
        attention: Some([32, 4, 128]),
    },
    Preset {
        name: "gpt-oss-120b",
        matrices: &[[5120, 2880], [2880, 4096], [201_088, 2880]],
        experts: Some([128, 4, 2880, 2880]),
        attention: Some([64, 8, 64]),
    },
    Preset {
        name: "llama-3.3-70b",
        matrices: &[[10_240, 8192], [8192, 8192], [57_344, 8192], [8192, 28_672], [128_256, 8192]],
        experts: None,
        attention: Some([64, 8, 128]),
    },
    Preset {
        name: "deepseek-v3.1",
        matrices: &[[2112, 7168], [24_576, 1536], [7168, 16_384], [36_864, 7168], [7168, 18_432], [129_280, 7168]],
        experts: Some([256, 8, 2048, 7168]),
        attention: None,
    },
    Preset {
        name: "gemma-3-27b",
        matrices: &[[8192, 5376], [5376, 4096], [43_008, 5376], [5376, 21_504], [262_144, 5376]],
        experts: None,
        attention: Some([32, 16, 128]),
    },
];

/// What to measure; an empty list stands for the usual.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    pub ops: Vec<String>,
    pub formats: Vec<Format>,
    /// [rows, columns] of matrices; of experts [ff, hidden].
    pub shapes: Vec<[usize; 2]>,
    pub presets: Vec<String>,
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
        for preset in PRESETS.iter().filter(|p| self.presets.iter().any(|name| name == p.name)) {
            for &format in &formats {
                cases.extend(linear(format, preset.matrices, 1));
                cases.extend(linear(format, preset.matrices, PREFILL));
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

    #[test]
    fn selections_narrow_and_leave_out_what_no_block_fits() {
        let selection = Selection {
            ops: vec!["matvec".into()],
            formats: vec![Format::Q4K, Format::MXFP4],
            presets: vec!["gpt-oss-120b".into()],
            ..Selection::default()
        };
        let (cases, others) = selection.cases(DeviceClass::Gpu);
        assert!(cases.iter().all(|c| c.op() == "matvec"));
        // 2880 columns are no multiple of 256, 4096 are.
        assert_eq!((cases.len(), others.len()), (4, 2));
        assert_eq!(others[0], "matvec q4_k 5120x2880");
    }

    #[test]
    fn the_usual_selection_has_every_operator() {
        let (cases, others) = Selection::default().cases(DeviceClass::Cpu);
        assert!(Selection::OPS.iter().all(|op| cases.iter().any(|c| c.op() == *op)));
        assert!(others.is_empty());
    }
}
