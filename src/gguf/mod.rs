//! The GGUF container: header, metadata, tensor table, split files, reading.
//!
//! Versions 2 and 3, little-endian. A file is taken for hostile: every count, length, offset and dimension is checked
//! against the file before it is used, and what is wrong comes back as an [`Error`] that names it.
//!
//! ```no_run
//! # fn main() -> Result<(), halogen::gguf::Error> {
//! let model = halogen::gguf::Gguf::open("model-00001-of-00003.gguf".as_ref())?;
//! println!("{}: {} tensors", model.architecture()?, model.tensors().len());
//! let norm = model.tensor("output_norm.weight").expect("every model has one");
//! let mut bytes = vec![0; norm.bytes as usize];
//! model.blocking_read(norm, 0, &mut bytes)?;
//! # Ok(())
//! # }
//! ```

mod cursor;
mod error;
mod header;
mod metadata;
#[cfg(feature = "native-io")]
#[allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "part of `native-io`")]
mod native;
mod shard;
mod source;
mod types;
mod value;
mod write;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

pub use error::{Error, KeyProblem, ShardProblem, TensorProblem};
pub use metadata::Metadata;
#[cfg(feature = "native-io")]
pub use native::{FileSource, READERS, Threads, forget};
pub use source::{AsyncReadAt, ReadAt, Reading, Target, Then};
pub use value::{Array, Strings, Value};
pub use write::{Writer, header};

use shard::Shard;

/// Where a tensor lies, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    pub name: String,
    /// As in the file: innermost, the columns, first. One to four of them, none 0.
    pub dims: Vec<u64>,
    /// ggml's number of the type; one that ggml knows.
    pub ggml_type: u32,
    /// The file that holds the tensor, counted from 0.
    pub shard: usize,
    /// Bytes from the start of that file.
    pub offset: u64,
    /// Bytes in all.
    pub bytes: u64,
}

impl TensorInfo {
    /// The type as users know it, lower case: `q4_k`.
    pub fn type_name(&self) -> &'static str {
        types::name(self.ggml_type).unwrap_or("unknown")
    }
}

/// An opened model: one file, or all the files of a split one. Cloning shares it; threads may read at once.
#[derive(Clone)]
pub struct Gguf {
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    version: u32,
    metadata: Arc<Metadata>,
    tensors: Vec<TensorInfo>,
    index: HashMap<String, usize>,
    files: Arc<Vec<OpenFile>>,
}

struct OpenFile {
    name: String,
    source: Box<dyn AsyncReadAt>,
}

impl Gguf {
    /// Opens a model by its path. Any file of a split model opens all of them, from the same folder.
    ///
    /// # Errors
    /// Whatever is wrong with the header of any of the files, or a file that is missing.
    #[cfg(feature = "native-io")]
    pub fn open(path: &std::path::Path) -> Result<Gguf, Error> {
        Gguf::from_shards(native::open_all(path)?)
    }

    /// A model that the program embeds. `name` stands for its file name in messages.
    pub fn from_static(name: &str, bytes: &'static [u8]) -> Result<Gguf, Error> {
        Gguf::from_shards(vec![Shard::in_memory(name, bytes)?])
    }

    /// A model in memory. `name` stands for its file name in messages.
    pub fn from_bytes(name: &str, bytes: Vec<u8>) -> Result<Gguf, Error> {
        Gguf::from_shards(vec![Shard::in_memory(name, bytes)?])
    }

    /// A model of one file whose bytes come from anywhere, [`source()`] or an app's own; `header` is how it begins, as [`header`] makes it.
    pub fn from_source(name: &str, header: &[u8], source: Box<dyn AsyncReadAt>) -> Result<Gguf, Error> {
        Gguf::from_shards(vec![Shard::of_source(name, header, source)?])
    }

    /// The first shard comes first, and there is one.
    fn from_shards(mut shards: Vec<Shard>) -> Result<Gguf, Error> {
        let first = &mut shards[0];
        let mut inner = Inner {
            name: first.file.clone(),
            version: first.header.version,
            metadata: Arc::new(std::mem::take(&mut first.header.metadata)),
            tensors: Vec::new(),
            index: HashMap::new(),
            files: Arc::default(),
        };
        for (number, shard) in shards.into_iter().enumerate() {
            let files = Arc::get_mut(&mut inner.files).expect("shared with nobody yet");
            files.push(OpenFile { name: shard.file, source: shard.source });
            for tensor in shard.header.tensors {
                inner.add(TensorInfo { shard: number, ..tensor })?;
            }
        }
        Ok(Gguf { inner: Arc::new(inner) })
    }

    /// The same files, of which only tensors for which `holds` says so are seen.
    pub fn part(&self, holds: impl Fn(&TensorInfo) -> bool) -> Gguf {
        let Inner { name, version, metadata, files, .. } = &*self.inner;
        let tensors: Vec<TensorInfo> = self.tensors().iter().filter(|tensor| holds(tensor)).cloned().collect();
        let index = tensors.iter().enumerate().map(|(at, tensor)| (tensor.name.clone(), at)).collect();
        let (name, metadata, files) = (name.clone(), metadata.clone(), files.clone());
        Gguf { inner: Arc::new(Inner { name, version: *version, metadata, tensors, index, files }) }
    }

    /// The file's name, for messages; a split model's first file's.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The container's version, 2 or 3.
    pub fn version(&self) -> u32 {
        self.inner.version
    }

    /// The metadata; a split model's first file's, which is the model's.
    pub fn metadata(&self) -> &Metadata {
        &self.inner.metadata
    }

    /// All tensors, in file order, a split model's files one after the other. Names are unique.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.inner.tensors
    }

    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.inner.index.get(name).map(|&at| &self.inner.tensors[at])
    }

    /// `general.architecture`: which model floor reads the rest.
    pub fn architecture(&self) -> Result<&str, Error> {
        self.inner.metadata.require_str("general.architecture")
    }

    /// The bytes of all tensors. No two share any, so this is at most the files' bytes.
    pub fn data_bytes(&self) -> u64 {
        self.tensors().iter().map(|tensor| tensor.bytes).sum()
    }

    /// Starts to read `len` of a tensor's bytes from `offset`, in bytes from the tensor's start; gives what `then` makes of
    /// them where they are read: it takes the vector, or leaves it to be read into again. Dropping it cancels it.
    ///
    /// # Errors
    /// The read passes the tensor's end, or fails: the file may have shrunk since it was opened.
    ///
    /// # Panics
    /// `tensor` is another model's, and lies in a shard that this one does not have.
    pub fn read<T>(
        &self,
        tensor: &TensorInfo,
        offset: u64,
        len: usize,
        then: T,
    ) -> impl Future<Output = Result<Vec<u8>, Error>> + use<T>
    where
        T: FnOnce(&mut Vec<u8>) -> Vec<u8> + Send + 'static,
    {
        self.reading(tensor, offset, len, move |source, at| source.read_at(at, len, Box::new(then)))
    }

    /// As [`Gguf::read`], into `target`, as many bytes as it has; gives an empty vector.
    pub fn read_into(
        &self,
        tensor: &TensorInfo,
        offset: u64,
        mut target: Target,
    ) -> impl Future<Output = Result<Vec<u8>, Error>> + use<> {
        let len = (*target).as_mut().len();
        self.reading(tensor, offset, len, move |source, at| source.read_into(at, target))
    }

    fn reading<S>(
        &self,
        tensor: &TensorInfo,
        offset: u64,
        len: usize,
        start: S,
    ) -> impl Future<Output = Result<Vec<u8>, Error>> + use<S>
    where
        S: FnOnce(&dyn AsyncReadAt, u64) -> Reading,
    {
        let file = &self.inner.files[tensor.shard];
        let bytes = len as u64;
        let reading = match offset.checked_add(bytes) {
            Some(end) if end <= tensor.bytes => Ok(start(&*file.source, tensor.offset.saturating_add(offset))),
            _ => {
                let problem = TensorProblem::OutsideTensor { offset, len: bytes, bytes: tensor.bytes };
                Err(Error::tensor(&file.name, &tensor.name, problem))
            }
        };
        let (file, tensor) = (file.name.clone(), tensor.name.clone());
        async move {
            reading?.await.map_err(|cause| Error::Io {
                file,
                what: format!("tensor {}: reading {len} bytes at {offset}", error::printable(&tensor)),
                cause,
            })
        }
    }

    /// A part of a tensor that was read, within its bytes, will not be read again soon: the page cache can let go of it.
    pub fn forget(&self, tensor: &TensorInfo, offset: u64, len: u64) {
        self.inner.files[tensor.shard].source.forget(tensor.offset.saturating_add(offset), len);
    }

    /// The name of the file that holds a tensor, and the file itself where it lies on a disk.
    #[allow(clippy::disallowed_types, reason = "a browser gives none")]
    pub(crate) fn file_of(&self, tensor: &TensorInfo) -> (&str, Option<&std::fs::File>) {
        let file = &self.inner.files[tensor.shard];
        (&file.name, file.source.file())
    }

    /// As [`Gguf::forget`], of all files.
    pub fn forget_all(&self) {
        self.inner.files.iter().for_each(|file| file.source.forget(0, file.source.len()));
    }

    /// Fills `buf` with a tensor's bytes from `offset`, as [`Gguf::read`], and waits for it.
    pub fn blocking_read(&self, tensor: &TensorInfo, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        #[allow(clippy::disallowed_methods, reason = "its name says that it waits")]
        buf.copy_from_slice(&pollster::block_on(self.read(tensor, offset, buf.len(), std::mem::take))?);
        Ok(())
    }
}

/// Reads that do not keep their caller: on a few threads, where there are, else at once.
pub fn source(source: impl ReadAt + 'static) -> Box<dyn AsyncReadAt> {
    #[cfg(feature = "native-io")]
    return Box::new(Threads::new(source));
    #[cfg(not(feature = "native-io"))]
    Box::new(source::AtOnce(source))
}

impl Inner {
    fn add(&mut self, tensor: TensorInfo) -> Result<(), Error> {
        if let Some(twin) = self.index.get(&tensor.name).map(|&at| &self.tensors[at]) {
            let problem = TensorProblem::Duplicate { first: self.files[twin.shard].name.clone() };
            return Err(Error::tensor(&self.files[tensor.shard].name, &tensor.name, problem));
        }
        self.index.insert(tensor.name.clone(), self.tensors.len());
        self.tensors.push(tensor);
        Ok(())
    }
}

impl fmt::Debug for Gguf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gguf")
            .field("name", &self.name())
            .field("version", &self.version())
            .field("metadata", &self.metadata().len())
            .field("tensors", &self.tensors().len())
            .finish()
    }
}
