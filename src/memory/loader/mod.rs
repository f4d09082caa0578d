//! Which tensor goes where: buffers are made as a model asks for its tensors, and the copies into them listed.

mod host;
mod import;
mod matrices;
mod stacks;

pub(super) use import::Imports;
pub use matrices::Take;

use super::budget::{Backing, ExpertMemory, Placement, expert_stacks, layer_of};
use super::copies::{RowCopy, Rows, copies, cut};
use super::filling::{READS, Upload};
use super::held::has_room;
use super::span::Span;
use super::store::ExpertStore;
use super::{Error, Result, System};
use crate::formats::Format;
use crate::gguf::{Gguf, TensorInfo};
use crate::gpu::{Gpu, Mapped, View};
use crate::ops::Shard;
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
    /// Of what does not stay in the file.
    pub(super) upload: Upload,
    /// What stays there, if anything is to.
    pub(super) imports: Option<Imports>,
    /// The buffers that are filled in place.
    pub(super) mapped: Vec<Mapped>,
    /// What of them lies on this device.
    span: Span,
    /// In place of what lies elsewhere, of whatever size.
    nothing: View,
    /// Names of the tensors that were asked for.
    asked: HashSet<&'a str>,
    /// Where not all experts are to be resident.
    experts: Option<ExpertMemory>,
    /// Layers from the first on whose experts kernels read in host memory.
    read_in_place: u32,
    /// Of what is not.
    pub(super) store: ExpertStore,
}

/// Makes a buffer of a name and so many bytes.
type Make<W> = fn(&mut W, &str, u64) -> Result<View>;

/// Tensors whose values the host needs.
pub(super) enum Host {
    /// Asked for so far.
    Wanted(Vec<Arc<TensorInfo>>),
    /// Their bytes, by name.
    Read(HashMap<String, Vec<u8>>),
}

impl<'a> Weights<'a> {
    /// For the first asking.
    pub fn new(gguf: &'a Gguf, gpu: &'a Gpu) -> Result<Self> {
        Ok(Weights::with(gguf, gpu, Host::Wanted(Vec::new()), gpu.buffer("nothing", 0)?))
    }

    fn with(gguf: &'a Gguf, gpu: &'a Gpu, host: Host, nothing: View) -> Self {
        let (upload, store) = (Upload::on(gpu), ExpertStore::new(gpu, gguf));
        let (copies, mapped, span, asked) = (Vec::new(), Vec::new(), Span::whole(), HashSet::new());
        let (experts, read_in_place, imports) = (None, 0, None);
        Weights {
            gguf,
            gpu,
            done: 0,
            host,
            copies,
            upload,
            imports,
            mapped,
            span,
            nothing,
            asked,
            experts,
            read_in_place,
            store,
        }
    }

    /// Reads what the host needs, for the second asking.
    ///
    /// # Errors
    /// The first of a read.
    pub async fn read(self) -> Result<Weights<'a>> {
        let Weights { gguf, gpu, host: Host::Wanted(tensors), nothing, .. } = self else { return Ok(self) };
        let each = tensors.iter().map(|tensor| async {
            let bytes = gguf.read(tensor, 0, tensor.bytes as usize, std::mem::take).await?;
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

    /// From here on only the weights of these layers are placed; experts get no more than their memory, and come and go, or lie in
    /// host memory where kernels read them, and some dense layers pass through.
    ///
    /// # Errors
    /// Host memory that is asked for and not there.
    pub fn limit(&mut self, span: &Span, placement: &Placement, backing: Backing) -> Result<()> {
        self.span = span.clone();
        placement.dense.into_iter().for_each(|memory| self.store.set_stream(memory));
        if backing != Backing::InPlace {
            self.experts = placement.experts;
            return Ok(());
        }
        let own = || expert_stacks(self.gguf).filter(|tensor| span.holds(self.gguf, &tensor.name));
        self.read_in_place = placement.experts.map_or(0, |memory| memory.layers_on_host(own()));
        let on_host = own().filter(|tensor| self.reads_in_place(&tensor.name));
        let bytes = on_host.map(|tensor| tensor.bytes).sum();
        match System::read().available {
            Some(available) if !has_room(bytes, Some(available)) => {
                Err(Error::HostMemory { file: self.file(), bytes, available })
            }
            _ => Ok(()),
        }
    }

    /// Whether kernels read the experts of a tensor's layer in host memory.
    fn reads_in_place(&self, name: &str) -> bool {
        layer_of(name).is_some_and(|layer| layer < self.read_in_place)
    }

    /// Bytes that are read once all is.
    pub fn total(&self) -> u64 {
        let imported = self.imports.as_ref().map_or(0, Imports::bytes);
        self.done + imported + self.copies.iter().map(|copy| copy.bytes() as u64).sum::<u64>()
    }

    /// From here on matrices get to the device this way, and not as [`Upload::on`] says.
    ///
    /// # Errors
    /// A device that cannot import what is to be imported.
    pub fn upload_by(&mut self, upload: Upload) -> Result<()> {
        if upload == Upload::Import {
            self.gpu.check_import()?;
            self.imports = Some(Imports::default());
        } else {
            self.upload = upload;
        }
        Ok(())
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

    /// Whether a tensor is to lie on this device, at the second asking.
    fn places(&self, name: &str) -> bool {
        matches!(self.host, Host::Read(_)) && self.span.holds(self.gguf, name)
    }

    /// A zeroed buffer.
    fn buffer(&mut self, name: &str, bytes: u64) -> Result<View> {
        Ok(self.gpu.buffer(name, bytes)?)
    }

    /// A buffer in host memory that copies fill, all of it.
    fn filled_on_host(&mut self, name: &str, bytes: u64) -> Result<View> {
        let (view, mapped) = self.gpu.mapped_on_host(name, bytes)?;
        self.mapped.push(mapped);
        Ok(view)
    }

    /// A buffer that copies fill, all of it.
    fn filled(&mut self, name: &str, bytes: u64) -> Result<View> {
        if self.upload == Upload::Ring {
            return self.buffer(name, bytes);
        }
        let (view, mapped) = self.gpu.mapped(name, bytes)?;
        self.mapped.push(mapped);
        Ok(view)
    }

    /// Bytes that one shard may have.
    fn most(&self) -> u64 {
        self.gpu.caps().max_shard
    }

    /// Rows one after another in shards of whole units of `unit` rows: where they lie in the file, or copied from there into buffers
    /// by `filled`.
    fn resident(
        &mut self,
        name: &str,
        format: Format,
        columns: usize,
        parts: &[Rows],
        unit: usize,
        filled: Make<Self>,
    ) -> Result<Vec<Shard>> {
        if let Some(shards) = self.imported(name, format, columns, parts, unit)? {
            return Ok(shards);
        }
        let rows: usize = parts.iter().map(|part| part.count).sum();
        let unit_bytes = (format.device_row_bytes(columns) * unit) as u64;
        let shards = self.shards(name, unit_bytes, rows / unit, filled)?;
        self.copy(name, copies(parts, &shards, 0, unit, format, columns));
        Ok(shards)
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

    /// Buffers by `buffer` for `units` of so many bytes each, as few as the limits allow. A shard counts in units.
    fn shards(&mut self, name: &str, unit_bytes: u64, units: usize, buffer: Make<Self>) -> Result<Vec<Shard>> {
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
                None => buffer(self, name, bytes)?,
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
