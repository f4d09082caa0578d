//! Which layers of a model lie on which device.

use super::budget::layer_of;
use crate::gguf::Gguf;
use std::ops::Range;

/// Consecutive layers of a model, which lie on one device. The last of several reaches as far as there is anything: the head is a
/// layer after all others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span(Range<u32>);

impl Span {
    /// All of a model.
    pub fn whole() -> Span {
        Span(0..u32::MAX)
    }

    /// What lies between cuts, each before the layer that it names; they rise, from 1 at least.
    pub fn between(cuts: &[usize]) -> Vec<Span> {
        let ends = cuts.iter().map(|cut| *cut as u32).chain([u32::MAX]);
        let starts = std::iter::once(0).chain(cuts.iter().map(|cut| *cut as u32));
        starts.zip(ends).map(|(from, to)| Span(from..to)).collect()
    }

    /// As recordings number layers.
    pub fn range(&self) -> Range<u32> {
        self.0.clone()
    }

    /// The layers, of a model that has so many.
    pub fn layers(&self, of: usize) -> Range<usize> {
        self.0.start as usize..of.min(self.0.end as usize)
    }

    pub fn contains(&self, layer: usize) -> bool {
        u32::try_from(layer).is_ok_and(|layer| self.0.contains(&layer))
    }

    pub fn is_first(&self) -> bool {
        self.0.start == 0
    }

    pub fn is_last(&self) -> bool {
        self.0.end == u32::MAX
    }

    /// Whether a tensor lies here. What is in no layer is read before the first, but for the output's norm and matrix, which may
    /// be the embedding. What is no tensor of the file lies everywhere.
    pub fn holds(&self, gguf: &Gguf, name: &str) -> bool {
        match (layer_of(name), name) {
            (Some(layer), _) => self.0.contains(&layer),
            (None, "token_embd.weight") => self.is_first() || self.is_last() && gguf.tensor("output.weight").is_none(),
            (None, name) if name.starts_with("output") => self.is_last(),
            (None, name) => self.is_first() || gguf.tensor(name).is_none(),
        }
    }
}

/// The cuts of layers that take `bytes` each, for devices with `memory` bytes each, so that the fullest is as little full as can be;
/// a cut is before the layer that it names. What is in no layer counts to the first and the last. `together`: layers that stay on
/// one device. `None`: there are too few layers for that.
pub fn cuts(bytes: &[u64], memory: &[u64], together: &Range<usize>) -> Option<Vec<usize>> {
    let allowed = |cut: usize| cut <= together.start || cut >= together.end;
    let full = |layers: Range<usize>, device: usize| {
        bytes[layers].iter().map(|bytes| *bytes as f64).sum::<f64>() / memory[device].max(1) as f64
    };
    // best[end]: how full the devices so far are with the layers before `end`, and their cuts.
    let mut best: Vec<Option<(f64, Vec<usize>)>> =
        (0..=bytes.len()).map(|end| Some((full(0..end, 0), vec![]))).collect();
    best[0] = None;
    for device in 1..memory.len() {
        let ending = |end: usize| {
            let from = (1..end).filter(|cut| allowed(*cut)).filter_map(|cut| {
                let (fullest, cuts) = best[cut].as_ref()?;
                Some((fullest.max(full(cut..end, device)), [&cuts[..], &[cut]].concat()))
            });
            from.min_by(|a, b| a.0.total_cmp(&b.0))
        };
        best = (0..=bytes.len()).map(ending).collect();
    }
    best.pop().flatten().map(|(_, cuts)| cuts)
}

#[cfg(test)]
mod tests {
    use super::{Span, cuts};

    #[test]
    fn layers_are_cut_by_memory() {
        assert_eq!(cuts(&[1; 12], &[10, 10], &(0..0)), Some(vec![6]));
        assert_eq!(cuts(&[1; 12], &[30, 10], &(0..0)), Some(vec![9]));
        assert_eq!(cuts(&[1; 12], &[10, 20, 10], &(0..0)), Some(vec![3, 9]));
        assert_eq!(cuts(&[5, 1, 1, 1, 1, 1], &[10, 10], &(0..0)), Some(vec![1]), "a large layer stays alone");
        assert_eq!(cuts(&[1; 2], &[10, 10, 10], &(0..0)), None, "fewer layers than devices");
        assert_eq!(cuts(&[1], &[10], &(0..1)), Some(vec![]));
        assert_eq!(cuts(&[1; 12], &[10, 10], &(3..12)), Some(vec![3]), "some layers stay together");
        assert_eq!(cuts(&[1; 12], &[10, 10], &(0..12)), None);
    }

    #[test]
    fn spans_lie_between_cuts() {
        let spans = Span::between(&[2, 5]);
        assert_eq!(spans.iter().map(|span| span.layers(7)).collect::<Vec<_>>(), [0..2, 2..5, 5..7]);
        assert!(spans[2].contains(7) && !spans[1].contains(7), "the head lies with the last");
        assert_eq!(Span::between(&[]), [Span::whole()]);
    }
}
