//! Which layers of a model lie on which device.

use super::{Error, Result, Session, SessionOptions};
use crate::gguf::Gguf;
use crate::gpu::Gpu;
use crate::memory::{Needs, Placement, PlacementOptions, Span, Upload, available_among, cuts};
use crate::models;

/// A device, and what of a model is to lie there.
#[derive(Clone)]
pub struct Share {
    pub gpu: Gpu,
    pub span: Span,
    /// Which of those weights are not to be resident.
    pub placement: Placement,
    /// How the others get there; by default as [`Upload::on`] says.
    pub upload: Option<Upload>,
}

impl Share {
    /// Where a model lies beside a session with these options: on one device all of it; on several by layers in the devices' order,
    /// cut so that the fullest is as little full as can be. A budget is that of each device.
    ///
    /// # Errors
    /// Layers that cannot be cut so often; what does not fit on one of the devices, as [`Needs::placed`] says.
    pub fn among(gpus: &[Gpu], gguf: &Gguf, options: &SessionOptions, wishes: &PlacementOptions) -> Result<Vec<Share>> {
        let shape = models::shape(gguf)?;
        let layers = shape.keeps.len();
        let memory: Vec<Option<u64>> = (0..gpus.len()).map(|i| wishes.budget.or(available_among(gpus, i))).collect();
        let needs = |span: &Span| {
            let weights = gguf.part(|tensor| span.holds(gguf, &tensor.name)).data_bytes();
            Needs { weights, ..Session::needs(&shape.of(span), options) }
        };
        // Each layer by itself; the first and the last with what is before and behind.
        let all: Vec<usize> = (1..layers).collect();
        let alone: Vec<Needs> = Span::between(&all).iter().map(needs).collect();
        let bytes: Vec<u64> = alone.iter().map(|needs| needs.weights.saturating_add(needs.kv)).collect();
        let scratch = alone.first().map_or(0, |needs| needs.scratch);
        // Of which one says nothing, all are taken to be alike.
        let known = memory.iter().copied().collect::<Option<Vec<u64>>>().unwrap_or(vec![u64::MAX; gpus.len()]);
        let room: Vec<u64> = known.iter().map(|bytes| bytes.saturating_sub(scratch)).collect();
        let cuts = cuts(&bytes, &room, &shape.together).ok_or_else(|| Error::NoCut {
            file: gguf.name().into(),
            layers,
            devices: gpus.len(),
            together: shape.together.clone(),
        })?;
        let share = |(i, (gpu, span)): (usize, (&Gpu, Span))| {
            let part = gguf.part(|tensor| span.holds(gguf, &tensor.name));
            let budget = if gpus.len() > 1 { memory[i] } else { wishes.budget };
            let placement = needs(&span).placed(&part, gpu, &PlacementOptions { budget, ..*wishes })?;
            Ok(Share { gpu: gpu.clone(), span, placement, upload: None })
        };
        gpus.iter().zip(Span::between(&cuts)).enumerate().map(share).collect()
    }
}
