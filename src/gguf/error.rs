//! What can be wrong with a GGUF file.

/// Why a file could not be opened or read. Every message starts with the file's name.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused. `cause` is in the message, so it is no `source()`: a chain would say it twice.
    #[error("{file}: {what}: {cause}")]
    Io { file: String, what: String, cause: std::io::Error },
    /// Another format.
    #[error("{file}: not a GGUF file: {found}")]
    NotGguf { file: String, found: String },
    /// A file for big-endian machines.
    #[error(
        "{file}: a big-endian GGUF file (version field {version:#010x}); only little-endian files can be read, \
         convert it with `gguf_convert_endian.py`"
    )]
    BigEndian { file: String, version: u32 },
    /// A version before 2, whose lengths are 32 bits, or one that did not exist yet.
    #[error("{file}: GGUF version {version}; versions 2 and 3 can be read")]
    Version { file: String, version: u32 },
    /// The file ends too early, or a length in it is wrong.
    #[error("{file}: truncated or corrupt: {what}, at byte {at}, needs {needed} bytes, and {left} are left")]
    Truncated { file: String, what: String, at: u64, needed: u64, left: u64 },
    /// A metadata key is missing or malformed.
    #[error("{file}: key {key}: {problem}")]
    Key { file: String, key: String, problem: KeyProblem },
    /// A tensor is malformed, or lies where it cannot.
    #[error("{file}: tensor {tensor}: {problem}")]
    Tensor { file: String, tensor: String, problem: TensorProblem },
    /// The files of a split model do not fit together.
    #[error("{file}: {problem}")]
    Shard { file: String, problem: ShardProblem },
}

impl Error {
    pub(super) fn key(file: &str, key: &str, problem: KeyProblem) -> Self {
        Error::Key { file: file.into(), key: printable(key), problem }
    }

    pub(super) fn tensor(file: &str, tensor: &str, problem: TensorProblem) -> Self {
        Error::Tensor { file: file.into(), tensor: printable(tensor), problem }
    }
}

/// A name out of a file as a message may show it: no control characters, which terminals obey, and no megabytes.
pub(super) fn printable(name: &str) -> String {
    const SHOWN: usize = 128;
    let mut shown: String = name.chars().take(SHOWN).flat_map(char::escape_debug).collect();
    if name.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

/// What is wrong with a metadata key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyProblem {
    #[error("missing")]
    Missing,
    #[error("stands twice in the file")]
    Duplicate,
    #[error("the key is not UTF-8")]
    NameNotUtf8,
    #[error("the string is not UTF-8 (first bad byte at {valid_up_to})")]
    NotUtf8 { valid_up_to: usize },
    #[error("expected {expected}, found {found}")]
    WrongType { expected: &'static str, found: &'static str },
    #[error("{value} does not fit in {expected}")]
    OutOfRange { value: i128, expected: &'static str },
    #[error("element {index} is {value}, which does not fit in {expected}")]
    ElementOutOfRange { index: usize, value: i128, expected: &'static str },
    #[error("unknown value type {0}")]
    UnknownType(u32),
    #[error("{0} is no bool; 0 and 1 are")]
    NotBool(u8),
    #[error("arrays nest deeper than {limit}, this reader's limit")]
    TooDeep { limit: u32 },
    #[error("{found} is no alignment; a power of two from 8 to {limit} bytes is")]
    Alignment { found: u64, limit: u64 },
}

/// What is wrong with a tensor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TensorProblem {
    #[error("stands twice, first in {first}")]
    Duplicate { first: String },
    #[error("the name is not UTF-8")]
    NameNotUtf8,
    #[error("unknown ggml type {0}")]
    UnknownType(u32),
    #[error("{found} dimensions; ggml's limit is {limit}")]
    TooManyDims { found: u64, limit: u64 },
    #[error("shape {dims:?} (innermost first) has a dimension of 0")]
    Empty { dims: Vec<u64> },
    #[error("shape {dims:?} (innermost first) overflows 64 bits")]
    Overflow { dims: Vec<u64> },
    #[error("rows of {row} values are no multiple of {type_name}'s block of {block}")]
    PartialBlock { row: u64, type_name: &'static str, block: u64 },
    #[error("offset {offset} is no multiple of the alignment, {alignment}")]
    Misaligned { offset: u64, alignment: u64 },
    #[error(
        "{bytes} bytes at offset {offset} of the tensor data, which starts at byte {data}, end past the file's \
         {file_bytes} (an incomplete download?)"
    )]
    OutsideFile { offset: u64, bytes: u64, data: u64, file_bytes: u64 },
    #[error("overlaps tensor {other}")]
    Overlaps { other: String },
    #[error("{found} bytes given, its shape and type make {expected}")]
    WrongBytes { found: u64, expected: u64 },
    #[error("reading {len} bytes at {offset} passes the end of its {bytes}")]
    OutsideTensor { offset: u64, len: u64, bytes: u64 },
}

/// What is wrong with a split model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ShardProblem {
    #[error("shard {shard} of {count} by its metadata, so its name should end in {suffix}")]
    Name { shard: u64, count: u64, suffix: String },
    #[error("split.no = {found} names no shard of split.count = {count}")]
    NoSuchShard { found: u64, count: u64 },
    #[error("shard {shard} of {count} is missing: {path}")]
    Missing { shard: u64, count: u64, path: String },
    #[error("{key} = {found}, where {expected} was expected")]
    Disagrees { key: &'static str, found: u64, expected: u64 },
    #[error("split.tensors.count = {expected}, and the {count} shards hold {found}")]
    TensorCount { expected: u64, found: u64, count: u64 },
    #[error("one shard of {count}; a split model is opened by its path")]
    InMemory { count: u64 },
}
