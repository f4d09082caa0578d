//! What of a model's weights lies on the device where not all of it fits: routed experts in slots, dense layers passing through.

use super::ends::{EMBEDDING, OUTPUT};
use super::{Error, Result};
use crate::formats::Format;
use crate::gguf::{Gguf, TensorInfo};
use std::collections::BTreeMap;

/// Alignment of a binding within a buffer that WebGPU asks for.
pub(super) const ALIGNMENT: u64 = 256;

/// How much of the experts may lie on the device.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct ExpertMemory {
    /// Bytes of the slots of all layers.
    pub bytes: u64,
    /// Bytes of all experts.
    pub all: u64,
    /// Bytes of a slot where all layers share them, since there is not a set of them for each.
    pub shared: Option<u64>,
    /// Layers from the first on whose experts live in host memory: they have slots for the experts of one token, which count in
    /// neither of the sums.
    pub on_host: u32,
    /// Experts of a token.
    pub used: u64,
}

/// Dense layers of which some pass through two slots for every step.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct DenseMemory {
    /// The first layer on the device, how many there are, and how many of them pass through.
    pub first: u32,
    pub layers: u32,
    pub streamed: u32,
    /// Bytes of a slot.
    pub slot: u64,
    /// Pieces in which the embedding and the output matrix pass through, too; 0: they stay.
    pub pieces: u32,
    /// Bytes that a step brings.
    pub bytes: u64,
}

/// What of a model lies where; nothing: all of it on the device.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub struct Placement {
    pub experts: Option<ExpertMemory>,
    pub dense: Option<DenseMemory>,
}

/// What is asked for beside what fits.
#[derive(Clone, Copy, Debug, Default)]
pub struct PlacementOptions {
    /// Bytes of the device that may be used; `None`: what it has, less a margin.
    pub budget: Option<u64>,
    /// Layers from the first on whose experts are to live in host memory.
    pub experts_on_host: u32,
}

/// Where weights are kept that come and go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backing {
    /// In host memory, which is filled once.
    Host,
    /// In the file: what the system keeps of it in memory is its affair.
    Disk,
    /// In host memory if the device has a memory of its own and the host has room.
    #[default]
    Auto,
    /// In host memory, where kernels read them: nothing comes and goes. The last layers' experts lie on the device, of as many layers
    /// as it has memory for.
    InPlace,
}

/// The stacks of routed experts of a file.
pub fn expert_stacks(gguf: &Gguf) -> impl Iterator<Item = &TensorInfo> {
    gguf.tensors().iter().filter(|tensor| is_stack(tensor))
}

fn is_stack(tensor: &TensorInfo) -> bool {
    tensor.name.ends_with("_exps.weight")
}

/// Bytes that the routed experts of a file take on a device.
pub fn expert_bytes(gguf: &Gguf) -> u64 {
    expert_stacks(gguf).filter_map(device_bytes).sum()
}

/// The layers of a file that have routed experts, and how many each.
pub fn expert_layers(gguf: &Gguf) -> BTreeMap<u32, usize> {
    let count = |t: &TensorInfo| Some((layer_of(&t.name)?, t.dims.get(2).map_or(1, |count| *count as usize)));
    expert_stacks(gguf).filter_map(count).collect()
}

/// Bytes that a tensor takes on a device; `None` of a type that no matrix has.
fn device_bytes(tensor: &TensorInfo) -> Option<u64> {
    let format = Format::from_ggml(tensor.ggml_type)?;
    let rows: u64 = tensor.dims[1..].iter().product();
    Some(format.device_row_bytes(tensor.dims[0] as usize) as u64 * rows)
}

/// N of `blk.N.…`.
pub(super) fn layer_of(name: &str) -> Option<u32> {
    name.strip_prefix("blk.")?.split('.').next()?.parse().ok()
}

/// Sums by layer.
fn by_layer<'t>(tensors: impl Iterator<Item = &'t TensorInfo>, bytes: impl Fn(&TensorInfo) -> Option<u64>) -> Vec<u64> {
    let mut sums = Vec::new();
    for tensor in tensors {
        let Some((layer, bytes)) = layer_of(&tensor.name).map(|layer| layer as usize).zip(bytes(tensor)) else {
            continue;
        };
        // A layer's number is the file's word; it has a tensor for each at least.
        if layer < 1 << 16 {
            sums.resize(sums.len().max(layer + 1), 0);
            sums[layer] += bytes;
        }
    }
    sums
}

impl ExpertMemory {
    /// `bytes` for the experts of a file; `None` where all of them fit.
    ///
    /// # Errors
    /// Less than one token's experts of the largest layer.
    pub fn within(gguf: &Gguf, bytes: u64) -> Result<Option<ExpertMemory>> {
        let all = expert_bytes(gguf);
        if bytes >= all {
            return Ok(None);
        }
        let (used, experts) = used_experts(gguf)?;
        let memory = ExpertMemory { bytes, all, shared: None, on_host: 0, used };
        if memory.slots(0, experts as usize) as u64 >= used {
            return Ok(Some(memory));
        }
        let slot = slot_bytes(gguf);
        if bytes / slot.max(1) < used {
            return Err(Error::FewExperts { file: gguf.name().into(), bytes, least: least_experts(gguf)?, used });
        }
        Ok(Some(ExpertMemory { shared: Some(slot), ..memory }))
    }

    /// Where the experts of the first `layers` layers live in host memory: room for all others, and the bytes of the slots that those
    /// have. `None` where these layers have no experts.
    fn beside_host(gguf: &Gguf, layers: u32) -> Result<Option<(ExpertMemory, u64)>> {
        let host: u64 = by_layer(expert_stacks(gguf), device_bytes).iter().take(layers as usize).sum();
        if host == 0 {
            return Ok(None);
        }
        let (used, experts) = used_experts(gguf)?;
        let slots = (u128::from(host) * u128::from(used)).div_ceil(u128::from(experts)) as u64;
        let others = expert_bytes(gguf) - host;
        Ok(Some((ExpertMemory { bytes: others, all: others, shared: None, on_host: layers, used }, slots)))
    }

    /// As much of it as `bytes` hold.
    fn cut_to(self, gguf: &Gguf, bytes: u64) -> Result<ExpertMemory> {
        let (memory, experts) = (ExpertMemory { bytes: bytes.min(self.all), ..self }, used_experts(gguf)?.1);
        if memory.bytes == self.all || memory.slots(self.on_host, experts as usize) as u64 >= self.used {
            return Ok(memory);
        }
        let least = (u128::from(self.all) * u128::from(self.used)).div_ceil(u128::from(experts.max(1))) as u64;
        Err(Error::FewExperts { file: gguf.name().into(), bytes, least, used: self.used })
    }

    /// Layers from the first on whose experts lie in host memory where none comes and goes, of stacks of the device's layers: as few as
    /// the bytes allow.
    pub(super) fn layers_on_host<'t>(&self, stacks: impl Iterator<Item = &'t TensorInfo>) -> u32 {
        let (layers, mut left) = (by_layer(stacks, device_bytes), self.bytes);
        let fits = |bytes: &&u64| left.checked_sub(**bytes).map(|rest| left = rest).is_some();
        let resident = layers.iter().rev().take_while(fits).count();
        self.on_host.max((layers.len() - resident) as u32)
    }

    /// Slots of a layer that has so many experts: its share of the memory, or those of all layers.
    pub fn slots(&self, layer: u32, experts: usize) -> usize {
        match self.shared {
            Some(slot) => (self.bytes / slot) as usize,
            None if layer < self.on_host => experts.min(self.used as usize),
            None => {
                let share = experts as u128 * u128::from(self.bytes) / u128::from(self.all.max(1));
                (share as usize).clamp(1, experts)
            }
        }
    }
}

/// Experts of a token, and of a layer. A shared expert may lie in a slot of its own.
fn used_experts(gguf: &Gguf) -> Result<(u64, u64)> {
    let used = gguf.metadata().u64(&format!("{}.expert_used_count", gguf.architecture()?))?.unwrap_or(0);
    let experts = expert_stacks(gguf).filter_map(|tensor| tensor.dims.get(2)).max().copied().unwrap_or(1);
    let shared = u64::from(gguf.tensors().iter().any(|tensor| tensor.name.ends_with("_shexp.weight")));
    Ok((used + shared, experts + shared))
}

/// Bytes of a slot that holds an expert of any layer: its matrices one after another.
fn slot_bytes(gguf: &Gguf) -> u64 {
    let expert = |t: &TensorInfo| Some((device_bytes(t)? / t.dims.get(2)?.max(&1)).next_multiple_of(ALIGNMENT));
    by_layer(expert_stacks(gguf), expert).into_iter().max().unwrap_or(0)
}

/// Bytes of one token's experts of the largest layer, in slots.
fn least_experts(gguf: &Gguf) -> Result<u64> {
    Ok(used_experts(gguf)?.0.saturating_mul(slot_bytes(gguf)))
}

impl DenseMemory {
    /// `bytes` for the dense weights of all layers; `None` where all of them fit. As few layers as can be pass through, spread over
    /// the model, so that those that stay are computed while the next one comes. `ends`: the embedding and the output matrix pass
    /// through, too, in pieces.
    ///
    /// # Errors
    /// Less than the largest layer twice.
    fn within(gguf: &Gguf, bytes: u64, ends: bool) -> Result<Option<DenseMemory>> {
        let layers = layers(gguf);
        if !ends && layers.iter().sum::<u64>() <= bytes {
            return Ok(None);
        }
        let slot = slot_of_layers(gguf);
        let (pieces, more) = if ends { Ends::of(gguf).pieces(slot) } else { (0, 0) };
        let first = layers.iter().position(|bytes| *bytes > 0).unwrap_or(0) as u32;
        let count = layers.len() as u32 - first;
        let placed = |streamed: u32| {
            let all = DenseMemory { first, layers: count, streamed, slot, pieces, bytes: more };
            let passing = (first..first + count).filter(|layer| all.streams(*layer));
            DenseMemory { bytes: more + passing.map(|layer| layers[layer as usize]).sum::<u64>(), ..all }
        };
        let fits = |memory: &DenseMemory| layers.iter().sum::<u64>() + more - memory.bytes + 2 * slot <= bytes;
        let memory = (u32::from(!ends)..=count).map(placed).find(fits);
        memory.map(Some).ok_or_else(|| Error::FewLayers { file: gguf.name().into(), bytes, least: 2 * slot })
    }

    /// Whether a layer passes through.
    pub fn streams(&self, layer: u32) -> bool {
        let before = |layer: u32| u64::from(layer) * u64::from(self.streamed) / u64::from(self.layers.max(1));
        let passes = |layer: u32| layer < self.layers && before(layer + 1) > before(layer);
        layer.checked_sub(self.first).is_some_and(passes)
    }

    /// Which of those that pass through a layer is.
    pub(super) fn rank(&self, layer: u32) -> usize {
        (0..layer).filter(|l| self.streams(*l)).count()
    }
}

/// Bytes of each layer's dense matrices, as slots hold them.
fn layers(gguf: &Gguf) -> Vec<u64> {
    let matrix = |t: &&TensorInfo| t.dims.len() > 1 && !is_stack(t);
    by_layer(gguf.tensors().iter().filter(matrix), |t| Some(device_bytes(t)?.next_multiple_of(ALIGNMENT)))
}

/// A slot for any layer, or for a row of what is in none.
fn slot_of_layers(gguf: &Gguf) -> u64 {
    layers(gguf).into_iter().max().unwrap_or(0).max(Ends::of(gguf).row)
}

/// The embedding and the output matrix; an embedding that is the output matrix, too, stays once and passes through twice.
struct Ends {
    /// Bytes on the device where they stay.
    staying: u64,
    /// Rows of each that passes, and the bytes of a row.
    passing: [(u64, u64); 2],
    /// Of the longer row.
    row: u64,
}

impl Ends {
    fn of(gguf: &Gguf) -> Ends {
        let rows = |t: &TensorInfo| {
            let rows = t.dims.get(1).copied().unwrap_or(1).max(1);
            (rows, device_bytes(t).unwrap_or(0) / rows)
        };
        let [embedding, output] = [EMBEDDING, OUTPUT].map(|name| gguf.tensor(name).map(rows));
        let each = embedding.unwrap_or_default();
        let staying = [embedding, output].iter().flatten().map(|(rows, bytes)| rows * bytes).sum();
        let passing = [each, output.unwrap_or(each)];
        Ends { staying, passing, row: passing[0].1.max(passing[1].1) }
    }

    /// Of a whole model; where layers lie on several devices, what is in none of them stays.
    fn can_pass(gguf: &Gguf) -> bool {
        let has = |name: &str| gguf.tensor(name).is_some();
        has(EMBEDDING) && has("output_norm.weight") && layers(gguf).first().is_some_and(|bytes| *bytes > 0)
    }

    /// Pieces of at most `slot` bytes, and the bytes of all.
    fn pieces(&self, slot: u64) -> (u32, u64) {
        let count = |(rows, bytes): &(u64, u64)| rows.div_ceil((slot / bytes.max(&1)).max(1)) as u32;
        (self.passing.iter().map(count).sum(), self.passing.iter().map(|(rows, bytes)| rows * bytes).sum())
    }
}

impl Placement {
    /// Where the weights of a file lie within `bytes`.
    ///
    /// # Errors
    /// Fewer than hold vectors, two slots for the largest layer, and one token's experts of a layer.
    pub fn within(gguf: &Gguf, bytes: u64) -> Result<Placement> {
        let (experts, all_dense) = (expert_bytes(gguf), layers(gguf).iter().sum::<u64>());
        // What is in no layer, and what is no matrix.
        let others =
            gguf.tensors().iter().filter(|t| !is_stack(t) && (t.dims.len() < 2 || layer_of(&t.name).is_none()));
        let outside = others.map(|t| device_bytes(t).unwrap_or(t.bytes)).sum::<u64>();
        let room = bytes.saturating_sub(outside);
        let least_experts = if experts == 0 { 0 } else { least_experts(gguf)?.min(experts) };
        if all_dense + least_experts <= room {
            let experts = if experts == 0 { None } else { ExpertMemory::within(gguf, room - all_dense)? };
            return Ok(Placement { experts, dense: None });
        }
        // A step that brings the embedding brings all of it for a row: layers go first.
        let slots = 2 * slot_of_layers(gguf);
        let ends = Ends::can_pass(gguf) && outside.saturating_add(slots).saturating_add(least_experts) > bytes;
        let stays = if ends { outside.saturating_sub(Ends::of(gguf).staying) } else { outside };
        let least = stays.saturating_add(slots).saturating_add(least_experts);
        if least > bytes {
            let (file, layer) = (gguf.name().into(), slots / 2);
            return Err(Error::BelowLeast { file, bytes, least, session: 0, stays, layer, experts: least_experts });
        }
        let experts = if experts == 0 { None } else { ExpertMemory::within(gguf, least_experts)? };
        Ok(Placement { experts, dense: DenseMemory::within(gguf, bytes - stays - least_experts, ends)? })
    }

    /// As [`Placement::within`], but the experts of the first `layers` layers live in host memory, whatever fits.
    ///
    /// # Errors
    /// As [`Placement::within`].
    pub fn with_experts_on_host(gguf: &Gguf, bytes: u64, layers: u32) -> Result<Placement> {
        let Some((others, slots)) = ExpertMemory::beside_host(gguf, layers)? else {
            return if bytes == u64::MAX { Ok(Placement::default()) } else { Placement::within(gguf, bytes) };
        };
        let dense = gguf.data_bytes().saturating_sub(expert_bytes(gguf));
        let room = bytes.saturating_sub(dense).saturating_sub(slots);
        match others.cut_to(gguf, room) {
            Ok(memory) if dense.saturating_add(slots) <= bytes => Ok(Placement { experts: Some(memory), dense: None }),
            _ => Placement::within(gguf, bytes),
        }
    }

    /// All but experts on the device, and so many percent of those; the experts of the first `layers` layers live in host memory and
    /// are not counted.
    ///
    /// # Errors
    /// A share that holds fewer than the experts of one token.
    pub fn of_share(gguf: &Gguf, percent: u32, layers: u32) -> Result<Placement> {
        let share = |bytes: u64| (u128::from(bytes) * u128::from(percent) / 100) as u64;
        let experts = match ExpertMemory::beside_host(gguf, layers)? {
            Some((others, _)) => Some(others.cut_to(gguf, share(others.all))?),
            None => ExpertMemory::within(gguf, share(expert_bytes(gguf)))?,
        };
        Ok(Placement { experts, dense: None })
    }

    /// Bytes of experts that a token uses where [`Backing::InPlace`] lets kernels read them in host memory.
    pub fn bytes_in_place(&self, gguf: &Gguf) -> u64 {
        let Some(memory) = self.experts else { return 0 };
        let layers = memory.layers_on_host(expert_stacks(gguf));
        let on_host = expert_stacks(gguf).filter(|t| layer_of(&t.name).is_some_and(|layer| layer < layers));
        let used = |t: &TensorInfo| {
            let experts = t.dims.get(2).copied().unwrap_or(1).max(1);
            (u128::from(device_bytes(t).unwrap_or(0)) * u128::from(memory.used.min(experts)) / u128::from(experts))
                as u64
        };
        on_host.map(used).sum()
    }

    /// Whether all of it is on the device.
    pub fn is_resident(&self) -> bool {
        self.experts.is_none() && self.dense.is_none()
    }
}
