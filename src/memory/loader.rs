//! Which tensor goes where: buffers are made as a model asks for its tensors, and the copies into them listed.

use super::budget::{ExpertMemory, Placement, layer_of};
use super::filling::{READS, RowCopy, Rows, copies, cut};
use super::slots::{Slots, Slotted};
use super::span::Span;
use super::store::ExpertStore;
use super::{Error, Result};
use crate::formats::Format;
use crate::gguf::{Gguf, TensorInfo};
use crate::gpu::{Gpu, View};
use crate::ops::{ExpertGateUp, GateUp, Joint, Matrix, NOWHERE, Part, Shard, Stack, shards_at_once};
use futures::{StreamExt, stream};
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

/// The tensors of a file, on their way to a device. A model asks for them twice: first to learn of which the host needs the
/// values, which [`Weights::read`] reads, while nothing is placed; then matrices get their buffers, and [`Weights::fill`] reads
/// them.
pub struct Weights<'a> {
    pub gguf: &'a Gguf,
    pub(super) gpu: &'a Gpu,
    /// Bytes read so far.
    pub(super) done: u64,
    pub(super) host: Host,
    /// What is to be read.
    pub(super) copies: Vec<RowCopy>,
    /// What of them lies on this device.
    span: Span,
    /// In place of what lies elsewhere, of whatever size.
    nothing: View,
    /// Names of the tensors that were asked for.
    asked: HashSet<&'a str>,
    /// Where not all experts are to be resident.
    experts: Option<ExpertMemory>,
    /// Of what is not.
    pub(super) store: ExpertStore,
}

/// Tensors whose values the host needs.
pub(super) enum Host {
    /// Asked for so far.
    Wanted(Vec<Arc<TensorInfo>>),
    /// Their bytes, by name.
    Read(HashMap<String, Vec<u8>>),
}

/// Rows of a tensor, in runs: all of them, or the same part of every group, where a file interleaves two matrices.
pub struct Take<'n> {
    pub name: &'n str,
    /// Of the tensor: a multiple of `group`.
    pub rows: usize,
    /// Rows from one run to the next.
    pub group: usize,
    /// The first of a group that is taken, and how many.
    pub first: usize,
    pub run: usize,
}

impl<'n> Take<'n> {
    pub fn all(name: &'n str, rows: usize) -> Self {
        Take { name, rows, group: rows, first: 0, run: rows }
    }

    fn taken(&self) -> usize {
        self.rows / self.group * self.run
    }

    /// The first row of each run.
    fn runs(&self) -> impl Iterator<Item = usize> {
        (self.first..self.rows).step_by(self.group)
    }
}

/// The experts of a stack's tensor one by one, and the shared one behind them.
fn expert_rows(tensors: &[Arc<TensorInfo>], experts: usize, rows: usize) -> Vec<Rows> {
    let routed = (0..experts).map(|e| Rows { tensor: tensors[0].clone(), first: e * rows, count: rows });
    routed.chain(tensors.get(1).map(|tensor| Rows { tensor: tensor.clone(), first: 0, count: rows })).collect()
}

impl<'a> Weights<'a> {
    /// For the first asking.
    pub fn new(gguf: &'a Gguf, gpu: &'a Gpu) -> Result<Self> {
        Ok(Weights::with(gguf, gpu, Host::Wanted(Vec::new()), gpu.buffer("nothing", 0)?))
    }

    fn with(gguf: &'a Gguf, gpu: &'a Gpu, host: Host, nothing: View) -> Self {
        let (copies, asked, store) = (Vec::new(), HashSet::new(), ExpertStore::new(gpu, gguf));
        Weights { gguf, gpu, done: 0, host, copies, span: Span::whole(), nothing, asked, experts: None, store }
    }

    /// Reads what the host needs, for the second asking.
    ///
    /// # Errors
    /// The first of a read.
    pub async fn read(self) -> Result<Weights<'a>> {
        let Weights { gguf, gpu, host: Host::Wanted(tensors), nothing, .. } = self else { return Ok(self) };
        let each = tensors.iter().map(|tensor| async {
            let bytes = gguf.read(tensor, 0, tensor.bytes as usize, |bytes| bytes).await?;
            Ok::<_, Error>((tensor.name.clone(), bytes))
        });
        let mut arriving = stream::iter(each).buffer_unordered(READS);
        let (mut values, mut done) = (HashMap::new(), 0);
        while let Some(read) = arriving.next().await {
            let (name, bytes) = read?;
            done += bytes.len() as u64;
            values.insert(name, bytes);
        }
        Ok(Weights { done, ..Weights::with(gguf, gpu, Host::Read(values), nothing) })
    }

    /// From here on only the weights of these layers are placed; experts get no more than their memory, and come and go, and some
    /// dense layers pass through.
    pub fn limit(&mut self, span: &Span, placement: &Placement) {
        self.span = span.clone();
        self.experts = placement.experts;
        placement.dense.into_iter().for_each(|memory| self.store.set_stream(memory));
    }

    /// Bytes that are read once all is.
    pub fn total(&self) -> u64 {
        self.done + self.copies.iter().map(|copy| copy.bytes() as u64).sum::<u64>()
    }

    /// The store of what was not placed.
    pub fn take_store(&mut self) -> Option<ExpertStore> {
        let empty = ExpertStore::new(self.gpu, self.gguf);
        Some(std::mem::replace(&mut self.store, empty)).filter(|store| !store.is_empty())
    }

    fn file(&self) -> String {
        self.gguf.name().to_string()
    }

    /// Whether the file has a tensor of this name.
    pub fn has(&self, name: &str) -> bool {
        self.gguf.tensor(name).is_some()
    }

    /// Whether the file has both tensors, of one type.
    pub fn of_one_type(&self, a: &str, b: &str) -> bool {
        let kind = |name: &str| self.gguf.tensor(name).map(|t| t.ggml_type);
        kind(a).is_some() && kind(a) == kind(b)
    }

    /// Passes over the tensors whose names start so: parts of a model that are not run.
    pub fn skip(&mut self, prefix: &str) {
        let names = self.gguf.tensors().iter().map(|t| t.name.as_str());
        self.asked.extend(names.filter(|name| name.starts_with(prefix)));
    }

    /// The tensor `name`, whose dimensions must be `dims`, innermost (columns) first.
    pub(super) fn tensor(&mut self, name: &str, dims: &[usize]) -> Result<Arc<TensorInfo>> {
        let missing = || Error::MissingTensor { file: self.file(), name: name.into() };
        let tensor = self.gguf.tensor(name).ok_or_else(missing)?;
        self.asked.insert(&tensor.name);
        let expected: Vec<u64> = dims.iter().map(|d| *d as u64).collect();
        // Trailing dimensions of 1 may be left out.
        let trim = |dims: &[u64]| dims.iter().rposition(|d| *d != 1).map_or(0, |last| last + 1);
        if tensor.dims[..trim(&tensor.dims)] != expected[..trim(&expected)] {
            let (name, found) = (name.into(), tensor.dims.clone());
            return Err(Error::Misshapen { file: self.file(), name, found, expected });
        }
        Ok(Arc::new(tensor.clone()))
    }

    pub(super) fn format(&self, tensor: &TensorInfo) -> Result<Format> {
        Format::from_ggml(tensor.ggml_type).ok_or_else(|| self.bad_type(tensor, "a matrix", Format::ALL))
    }

    fn bad_type(&self, tensor: &TensorInfo, what: &str, known: &[Format]) -> Error {
        let known = known.iter().map(|f| f.name()).collect::<Vec<_>>().join(", ");
        Error::Type {
            file: self.file(),
            name: tensor.name.clone(),
            found: tensor.type_name().to_string(),
            wanted: format!("{what}; it reads {known}"),
        }
    }

    /// A value of its own; 1 at the first asking.
    pub fn scalar(&mut self, name: &str) -> Result<f32> {
        Ok(self.host_vector(name, 1)?.first().copied().unwrap_or(1.0))
    }

    /// A vector as f32 values on the host, empty at the first asking; the file may hold it as f32, f16 or bf16.
    pub fn host_vector(&mut self, name: &str, len: usize) -> Result<Vec<f32>> {
        let tensor = self.tensor(name, &[len])?;
        self.host_values(&tensor, len)
    }

    fn host_values(&mut self, tensor: &Arc<TensorInfo>, len: usize) -> Result<Vec<f32>> {
        let floats = [Format::F32, Format::F16, Format::BF16];
        let format = self.format(tensor)?;
        if !floats.contains(&format) {
            return Err(self.bad_type(tensor, "a vector", &floats));
        }
        let Some(bytes) = self.bytes(tensor) else { return Ok(Vec::new()) };
        let mut values = vec![0.0; len];
        format.decode(bytes, &mut values);
        Ok(values)
    }

    /// A tensor's bytes on the host, once they are read.
    fn bytes(&mut self, tensor: &Arc<TensorInfo>) -> Option<&[u8]> {
        match &mut self.host {
            Host::Wanted(tensors) => {
                tensors.push(tensor.clone());
                None
            }
            Host::Read(values) => Some(values.get(&tensor.name).expect("a model asks for the same again")),
        }
    }

    /// A vector as `f32 [len]` on the device.
    pub fn vector(&mut self, name: &str, len: usize) -> Result<View> {
        let values = self.host_vector(name, len)?;
        self.upload(name, &values)
    }

    /// What a model made of values that it read on the host.
    pub fn upload<T: bytemuck::NoUninit>(&self, name: &str, values: &[T]) -> Result<View> {
        match self.places(name) {
            false => Ok(View { size: size_of_val(values) as u64, ..self.nothing.clone() }),
            true => Ok(self.gpu.upload(name, values)?),
        }
    }

    /// Whether a tensor is to lie on this device, at the second asking.
    fn places(&self, name: &str) -> bool {
        matches!(self.host, Host::Read(_)) && self.span.holds(self.gguf, name)
    }

    /// Vectors [rows, len] as f32 values on the host, empty at the first asking.
    pub fn host_rows(&mut self, name: &str, rows: usize, len: usize) -> Result<Vec<f32>> {
        let tensor = self.tensor(name, &[len, rows])?;
        self.host_values(&tensor, rows * len)
    }

    /// A table of ids [rows, columns] on the device, u32. Each must be below `end`.
    pub fn ids(&mut self, name: &str, rows: usize, columns: usize, end: usize) -> Result<View> {
        let tensor = self.tensor(name, &[columns, rows])?;
        if tensor.type_name() != "i32" {
            let (name, found) = (name.into(), tensor.type_name().to_string());
            return Err(Error::Type { file: self.file(), name, found, wanted: "a table of ids; it reads i32".into() });
        }
        let ids: Vec<u32> = self.bytes(&tensor).map(bytemuck::pod_collect_to_vec).unwrap_or_default();
        // Negative ones are large here.
        if let Some(at) = ids.iter().position(|id| *id as usize >= end) {
            let (row, value) = (at / columns, ids[at] as i32);
            return Err(Error::Id { file: self.file(), name: name.into(), row, value, end });
        }
        self.upload(name, &ids)
    }

    /// Biases of experts' gate and up as f32 [experts, 2 * ff], those of the gate first.
    pub fn expert_gate_up_bias(&mut self, name: &str, up: &str, experts: usize, ff: usize) -> Result<View> {
        let (gate, up) = (self.host_rows(name, experts, ff)?, self.host_rows(up, experts, ff)?);
        let both: Vec<f32> = gate.chunks(ff).zip(up.chunks(ff)).flat_map(|(g, u)| [g, u].concat()).collect();
        self.upload(name, &both)
    }

    /// Biases of experts as f32 [experts, rows].
    pub fn expert_bias(&mut self, name: &str, experts: usize, rows: usize) -> Result<View> {
        let values = self.host_rows(name, experts, rows)?;
        self.upload(name, &values)
    }

    /// A matrix [rows, columns].
    pub fn matrix(&mut self, name: &str, rows: usize, columns: usize) -> Result<Matrix> {
        let tensor = self.tensor(name, &[columns, rows])?;
        self.place_matrix(name, columns, &[Rows { tensor, first: 0, count: rows }])
    }

    fn place_matrix(&mut self, name: &str, columns: usize, parts: &[Rows]) -> Result<Matrix> {
        let format = self.format(&parts[0].tensor)?;
        let rows = parts.iter().map(|p| p.count).sum();
        let shards = self.place(name, format, columns, parts)?;
        Ok(Matrix { format, rows, columns, shards, stage: None })
    }

    /// Matrices [rows, columns] of one input, with a bias each if `bias` names them; rows of one format are joined.
    /// Also gives each matrix's first output.
    pub fn joint(&mut self, names: &[(&str, usize)], bias: &[&str], columns: usize) -> Result<(Joint, Vec<usize>)> {
        let takes: Vec<Take> = names.iter().map(|(name, rows)| Take::all(name, *rows)).collect();
        self.joint_of(&takes, bias, columns)
    }

    /// As [`Weights::joint`], of the rows of each tensor that are taken.
    pub fn joint_of(&mut self, takes: &[Take], bias: &[&str], columns: usize) -> Result<(Joint, Vec<usize>)> {
        let mut tensors = Vec::new();
        for take in takes {
            let tensor = self.tensor(take.name, &[columns, take.rows])?;
            tensors.push((self.format(&tensor)?, tensor, take));
        }
        let (mut parts, mut at, mut outputs) = (Vec::new(), vec![0; takes.len()], 0);
        for i in 0..tensors.len() {
            let format = tensors[i].0;
            if tensors[..i].iter().any(|t| t.0 == format) {
                continue;
            }
            let (first, mut rows, mut biases) = (outputs, Vec::new(), Vec::new());
            for (j, (_, tensor, take)) in tensors.iter().enumerate().filter(|(_, t)| t.0 == format) {
                at[j] = outputs;
                outputs += take.taken();
                rows.extend(take.runs().map(|first| Rows { tensor: tensor.clone(), first, count: take.run }));
                if let Some(bias) = bias.get(j) {
                    biases.extend(self.host_vector(bias, take.taken())?);
                }
            }
            let bias = if bias.is_empty() { None } else { Some(self.upload(takes[i].name, &biases)?) };
            parts.push(Part { matrix: self.place_matrix(takes[i].name, columns, &rows)?, bias, at: first });
        }
        Ok((Joint { parts, outputs }, at))
    }

    /// Gate and up [ff, columns], as one matrix where format and size allow.
    pub fn gate_up(&mut self, gate: &str, up: &str, ff: usize, columns: usize) -> Result<GateUp> {
        let (g, u) = (self.tensor(gate, &[columns, ff])?, self.tensor(up, &[columns, ff])?);
        let format = self.format(&g)?;
        let bytes = (format.device_row_bytes(columns) * 2 * ff) as u64;
        if format == self.format(&u)? && bytes <= self.most() {
            let parts = [g, u].map(|tensor| Rows { tensor, first: 0, count: ff });
            return Ok(GateUp::Joined(self.place_matrix(gate, columns, &parts)?));
        }
        Ok(GateUp::Split { gate: self.matrix(gate, ff, columns)?, up: self.matrix(up, ff, columns)? })
    }

    /// A stack [experts, rows, columns]; a `shared` matrix [rows, columns] of the same type is the last expert.
    pub fn stack(
        &mut self,
        name: &str,
        shared: Option<&str>,
        experts: usize,
        rows: usize,
        columns: usize,
    ) -> Result<Stack> {
        let tensors = self.experts(name, shared, experts, rows, columns)?;
        let parts: Vec<Rows> = tensors
            .into_iter()
            .zip([experts * rows, rows])
            .map(|(tensor, count)| Rows { tensor, first: 0, count })
            .collect();
        self.place_stack(name, columns, &parts, rows)
    }

    /// The tensor of a stack [experts, rows, columns], and that of the shared expert.
    fn experts(
        &mut self,
        name: &str,
        shared: Option<&str>,
        experts: usize,
        rows: usize,
        columns: usize,
    ) -> Result<Vec<Arc<TensorInfo>>> {
        let routed = self.tensor(name, &[columns, rows, experts])?;
        let shared = shared.map(|name| self.tensor(name, &[columns, rows])).transpose()?;
        Ok(std::iter::once(routed).chain(shared).collect())
    }

    /// The stacks of gate and up [experts, ff, columns], expert by expert in one where format and size allow; with the
    /// gate and up of a `shared` expert as in [`Weights::stack`].
    pub fn expert_gate_up(
        &mut self,
        [gate, up]: [&str; 2],
        shared: Option<[&str; 2]>,
        experts: usize,
        ff: usize,
        columns: usize,
    ) -> Result<ExpertGateUp> {
        let [shared_gate, shared_up] = [shared.map(|s| s[0]), shared.map(|s| s[1])];
        let gates = self.experts(gate, shared_gate, experts, ff, columns)?;
        let ups = self.experts(up, shared_up, experts, ff, columns)?;
        let [gates, ups] = [&gates, &ups].map(|tensors| expert_rows(tensors, experts, ff));
        let format = self.format(&gates[0].tensor)?;
        let bytes = (format.device_row_bytes(columns) * 2 * ff) as u64;
        if format != self.format(&ups[0].tensor)? || bytes > self.most() {
            let gate = self.place_stack(gate, columns, &gates, ff)?;
            return Ok(ExpertGateUp::Split { gate, up: self.place_stack(up, columns, &ups, ff)? });
        }
        let parts: Vec<Rows> = gates.into_iter().zip(ups).flat_map(|(gate, up)| [gate, up]).collect();
        Ok(ExpertGateUp::Joined(self.place_stack(gate, columns, &parts, 2 * ff)?))
    }

    /// As [`Weights::expert_gate_up`], of a file that holds gate and up as one stack [experts, 2 * ff, columns], gate rows
    /// first.
    pub fn fused_gate_up(
        &mut self,
        name: &str,
        shared: Option<[&str; 2]>,
        experts: usize,
        ff: usize,
        columns: usize,
    ) -> Result<ExpertGateUp> {
        let fused = self.tensor(name, &[columns, 2 * ff, experts])?;
        let shared = shared.map(|names| names.map(|name| self.tensor(name, &[columns, ff])));
        let shared: Vec<_> = shared.into_iter().flatten().collect::<Result<_>>()?;
        let mut parts = vec![Rows { tensor: fused, first: 0, count: experts * 2 * ff }];
        parts.extend(shared.into_iter().map(|tensor| Rows { tensor, first: 0, count: ff }));
        Ok(ExpertGateUp::Joined(self.place_stack(name, columns, &parts, 2 * ff)?))
    }

    fn place_stack(&mut self, name: &str, columns: usize, parts: &[Rows], rows: usize) -> Result<Stack> {
        let format = self.format(&parts[0].tensor)?;
        let experts = parts.iter().map(|part| part.count).sum::<usize>() / rows;
        let expert_bytes = (format.device_row_bytes(columns) * rows) as u64;
        let layer = layer_of(name).unwrap_or(u32::MAX);
        let slots = match self.experts.filter(|_| self.places(name)) {
            Some(ExpertMemory { shared: Some(slot), .. }) => {
                let count = self.experts.map_or(experts, |memory| memory.slots(layer, experts));
                // No more shards than any kernel binds: what is recorded must not depend on the budget.
                let most = shards_at_once(self.gpu.caps().storage_buffers, Format::IQ1S, 6);
                self.store.shared_slots(name, expert_bytes, count, slot, most)?
            }
            Some(memory) if memory.slots(layer, experts) < experts => {
                Slots { shards: self.shards(name, expert_bytes, memory.slots(layer, experts))?, stride: expert_bytes }
            }
            _ => {
                let shards = self.shards(name, expert_bytes, experts)?;
                return self.resident(name, shards, columns, parts, rows);
            }
        };
        let table = self.gpu.upload("expert table", &vec![[NOWHERE, 0]; experts])?;
        let stamps = self.store.add(name, experts, Slotted::new(format, columns, rows, parts, &slots, &table))?;
        let Slots { shards, stride } = slots;
        Ok(Stack { format, experts, rows, columns, shards, stride, table, stamps: Some(stamps) })
    }

    /// A stack [heads, rows, columns] of which each token reads all.
    pub fn heads(&mut self, name: &str, heads: usize, rows: usize, columns: usize) -> Result<Stack> {
        let tensor = self.tensor(name, &[columns, rows, heads])?;
        self.in_order(name, tensor, heads, rows, columns)
    }

    /// As [`Weights::heads`], of a matrix [groups * rows, columns] whose runs of `rows` rows have an input each.
    pub fn groups(&mut self, name: &str, groups: usize, rows: usize, columns: usize) -> Result<Stack> {
        let tensor = self.tensor(name, &[columns, groups * rows])?;
        self.in_order(name, tensor, groups, rows, columns)
    }

    fn in_order(
        &mut self,
        name: &str,
        tensor: Arc<TensorInfo>,
        heads: usize,
        rows: usize,
        columns: usize,
    ) -> Result<Stack> {
        let bytes = (self.format(&tensor)?.device_row_bytes(columns) * rows) as u64;
        let shards = self.shards(name, bytes, heads)?;
        self.resident(name, shards, columns, &[Rows { tensor, first: 0, count: heads * rows }], rows)
    }

    /// A stack that lies in shards as in the file.
    fn resident(
        &mut self,
        name: &str,
        shards: Vec<Shard>,
        columns: usize,
        parts: &[Rows],
        rows: usize,
    ) -> Result<Stack> {
        let format = self.format(&parts[0].tensor)?;
        self.copy(name, copies(parts, &shards, 0, rows, format, columns));
        let experts = shards.iter().map(|shard| shard.count).sum();
        let mut table = Vec::with_capacity(experts);
        for (index, shard) in shards.iter().enumerate() {
            table.extend((0..shard.count).map(|slot| [index as u32, slot as u32]));
        }
        let table = if self.places(name) { self.gpu.upload("expert table", &table)? } else { self.nothing.clone() };
        let stride = (format.device_row_bytes(columns) * rows) as u64;
        Ok(Stack { format, experts, rows, columns, shards, stride, table, stamps: None })
    }

    /// Bytes that one shard may have.
    fn most(&self) -> u64 {
        self.gpu.caps().max_shard
    }

    /// Copies into the shards of a matrix: at load, or whenever its layer passes through.
    fn copy(&mut self, name: &str, copies: Vec<RowCopy>) {
        if !self.places(name) {
            return;
        }
        match self.store.stream_of(name) {
            Some((stream, layer)) => stream.add(layer, copies),
            None => self.copies.extend(copies),
        }
    }

    /// Places rows one after another in shards.
    fn place(&mut self, name: &str, format: Format, columns: usize, parts: &[Rows]) -> Result<Vec<Shard>> {
        let rows = parts.iter().map(|part| part.count).sum();
        let shards = self.shards(name, format.device_row_bytes(columns) as u64, rows)?;
        self.copy(name, copies(parts, &shards, 0, 1, format, columns));
        Ok(shards)
    }

    /// Buffers for `units` of so many bytes each, as few as the limits allow. A shard counts in units.
    fn shards(&mut self, name: &str, unit_bytes: u64, units: usize) -> Result<Vec<Shard>> {
        let limit = self.most();
        if unit_bytes > limit {
            return Err(Error::Unit { file: self.file(), name: name.into(), bytes: unit_bytes, limit });
        }
        let places = self.places(name);
        let mut shard = |units: Range<usize>| -> Result<Shard> {
            let bytes = unit_bytes * units.len() as u64;
            let view = match self.store.stream_of(name) {
                _ if !places => View { size: bytes, ..self.nothing.clone() },
                Some((stream, layer)) => stream.place(self.gpu, layer, bytes)?,
                None => self.gpu.buffer(name, bytes)?,
            };
            Ok(Shard { view, first: units.start, count: units.len() })
        };
        cut(units, unit_bytes, limit).map(&mut shard).collect()
    }

    /// Fails if the file has tensors that no one asked for: the model is another than the one that was loaded.
    pub fn check_all_asked(&self) -> Result<()> {
        let mut unused = self.gguf.tensors().iter().map(|t| t.name.as_str()).filter(|name| {
            // Tables of rope that old converters wrote; the hyperparameters say the same.
            !self.asked.contains(name) && !name.ends_with(".attn_rot_embd")
        });
        match unused.next() {
            Some(name) => Err(Error::Unused { file: self.file(), name: name.into(), more: unused.count() }),
            None => Ok(()),
        }
    }
}
