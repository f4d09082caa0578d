//! What there is to measure: a line an operator, and the choice among them.

use super::rig::Made;
use super::sizes::Sizes;
use super::{Result, Work, attention, compressed, experts, linear, rows};
use crate::formats::Format;
use crate::gpu::{DeviceClass, Gpu};
use crate::presets::ModelPreset;

/// An operator, and its cases in a model.
struct Operator {
    /// As `--op` names it.
    name: &'static str,
    cases: fn(&Sizes, &Chosen) -> Vec<Case>,
}

const OPERATORS: &[Operator] = &[
    Operator { name: "matvec", cases: linear::matvec },
    Operator { name: "batch", cases: linear::batch },
    Operator { name: "matmul", cases: linear::matmul },
    Operator { name: "experts", cases: experts::matvec },
    Operator { name: "grouped", cases: experts::grouped },
    Operator { name: "decode", cases: attention::decode },
    Operator { name: "prefill", cases: attention::prefill },
    Operator { name: "latent", cases: attention::latent },
    Operator { name: "index", cases: attention::index },
    Operator { name: "entries", cases: compressed::entries },
    Operator { name: "hyper", cases: compressed::hyper },
    Operator { name: "delta", cases: rows::delta },
    Operator { name: "embed", cases: rows::embed },
    Operator { name: "norm", cases: rows::norm },
    Operator { name: "heads", cases: rows::heads },
    Operator { name: "router", cases: rows::router },
    Operator { name: "quantise", cases: rows::quantise },
    Operator { name: "sample", cases: rows::sample },
];

/// What cases are made for.
pub struct Chosen<'s> {
    formats: &'s [Format],
    /// Bytes that the weights of a case may take.
    pub memory: u64,
}

impl Chosen<'_> {
    /// The formats that were asked for, or the usual ones.
    pub fn formats(&self, usual: &[Format]) -> Vec<Format> {
        if self.formats.is_empty() { usual.to_vec() } else { self.formats.to_vec() }
    }
}

type Make = Box<dyn Fn(&Gpu, usize) -> Result<Made>>;

/// One operator at one shape.
pub struct Case {
    pub op: &'static str,
    /// Format and shape: `q4_k 4096x4096`.
    shape: String,
    /// The format of its weights, and columns that must be whole blocks of it.
    weights: Option<(Format, Vec<usize>)>,
    pub work: Work,
    make: Make,
}

impl Case {
    /// `make` gives the operator and at most so many copies of its inputs.
    pub fn new(shape: String, work: Work, make: impl Fn(&Gpu, usize) -> Result<Made> + 'static) -> Case {
        Case { op: "", shape, weights: None, work, make: Box::new(make) }
    }

    /// With weights of rows of so many columns.
    pub fn of(self, format: Format, columns: &[usize]) -> Case {
        Case { weights: Some((format, columns.to_vec())), ..self }
    }

    /// Operator, format and shape: `matvec q4_k 4096x4096`, `experts q4_k 8 of 128 768x2048`.
    pub fn name(&self) -> String {
        format!("{} {}", self.op, self.shape)
    }

    pub fn make(&self, gpu: &Gpu, copies: usize) -> Result<Made> {
        (self.make)(gpu, copies)
    }

    fn fits(&self) -> bool {
        let whole =
            |(format, columns): &(Format, Vec<usize>)| columns.iter().all(|n| n.is_multiple_of(format.block().max(4)));
        self.weights.as_ref().is_none_or(whole)
    }
}

/// What to measure; an empty list stands for the usual.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    pub ops: Vec<String>,
    /// If any, operators with weights alone.
    pub formats: Vec<Format>,
    /// [rows, columns] of matrices; of experts [ff, hidden]. If any, operators with weights alone, and these alone.
    pub shapes: Vec<[usize; 2]>,
    pub presets: Vec<&'static ModelPreset>,
    /// Positions cached before a step, in place of the usual.
    pub depth: Option<usize>,
}

impl Selection {
    /// The names of all operators.
    pub fn ops() -> impl Iterator<Item = &'static str> {
        OPERATORS.iter().map(|operator| operator.name)
    }

    /// The cases within `memory` bytes each, and the names of what the formats cannot hold.
    pub fn cases(&self, class: DeviceClass, memory: u64) -> (Vec<Case>, Vec<String>) {
        let mut sizes: Vec<Sizes> = match (self.shapes.is_empty(), self.presets.is_empty()) {
            (false, _) => Sizes::of_shapes(&self.shapes, class),
            (true, true) => vec![Sizes::usual(class)],
            (true, false) => self.presets.iter().map(|m| Sizes::of(m).expect("the tests ask every model")).collect(),
        };
        sizes.iter_mut().for_each(|s| s.cached = self.depth.unwrap_or(s.cached));
        let chosen = Chosen { formats: &self.formats, memory };
        let (mut cases, mut others) = (Vec::<Case>::new(), Vec::new());
        for operator in OPERATORS.iter().filter(|o| self.ops.is_empty() || self.ops.iter().any(|op| op == o.name)) {
            for mut case in sizes.iter().flat_map(|sizes| (operator.cases)(sizes, &chosen)) {
                case.op = operator.name;
                let asked = case.weights.is_some() || (self.formats.is_empty() && self.shapes.is_empty());
                // A model may ask for what another did.
                if !asked || cases.iter().any(|c| c.name() == case.name()) {
                    continue;
                }
                if case.fits() { cases.push(case) } else { others.push(case.name()) }
            }
        }
        (cases, others)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMORY: u64 = 64 << 20;

    #[test]
    fn selections_narrow_and_leave_out_what_no_block_fits() {
        let selection = Selection {
            ops: vec!["matvec".into()],
            formats: vec![Format::Q4K, Format::MXFP4],
            presets: vec![ModelPreset::named("gpt-oss-120b").unwrap()],
            ..Selection::default()
        };
        let (cases, others) = selection.cases(DeviceClass::Gpu, MEMORY);
        assert!(cases.iter().all(|c| c.op == "matvec"));
        // 2880 columns are no multiple of 256, 4096 are.
        assert_eq!((cases.len(), others.len()), (4, 2));
        assert_eq!(others[0], "matvec q4_k 201088x2880");
    }

    #[test]
    fn the_usual_selection_has_every_operator_and_shapes_only_those_of_matrices() {
        let (cases, others) = Selection::default().cases(DeviceClass::Cpu, MEMORY);
        assert!(Selection::ops().all(|op| cases.iter().any(|c| c.op == op)));
        assert!(others.is_empty());
        let selection = Selection { shapes: vec![[256, 256]], ..Selection::default() };
        let (cases, _) = selection.cases(DeviceClass::Cpu, MEMORY);
        let ops: Vec<&str> = cases.iter().map(|c| c.op).collect();
        assert!(["matvec", "matmul", "grouped"].iter().all(|op| ops.contains(op)) && !ops.contains(&"router"));
    }
}
