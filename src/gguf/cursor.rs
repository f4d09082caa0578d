//! Reading a header that may lie: every length is held against the bytes that are left before it is used.

use std::fmt;

use super::Error;
use super::error::printable;

/// What is being read, for the message if it is not there.
#[derive(Clone, Copy)]
pub(super) enum Reading<'a> {
    /// A field of the header.
    Header(&'static str),
    /// The key of the pair with this index.
    Key(u64),
    /// The value of this key.
    Value(&'a str),
    /// The name of the tensor with this index.
    TensorName(u64),
    /// The shape, type and offset of this tensor.
    Tensor(&'a str),
}

impl fmt::Display for Reading<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reading::Header(field) => write!(f, "the {field}"),
            Reading::Key(index) => write!(f, "metadata key {index}"),
            Reading::Value(key) => write!(f, "the value of key {}", printable(key)),
            Reading::TensorName(index) => write!(f, "the name of tensor {index}"),
            Reading::Tensor(name) => write!(f, "the shape, type and offset of tensor {}", printable(name)),
        }
    }
}

/// A place in a little-endian file.
pub(super) struct Cursor<'a> {
    pub(super) file: &'a str,
    bytes: &'a [u8],
    at: usize,
    /// Set before each group of reads.
    pub(super) reading: Reading<'a>,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(file: &'a str, bytes: &'a [u8]) -> Self {
        Cursor { file, bytes, at: 0, reading: Reading::Header("header") }
    }

    /// Bytes read so far.
    pub(super) fn at(&self) -> u64 {
        self.at as u64
    }

    /// The next `len` bytes.
    pub(super) fn take(&mut self, len: u64) -> Result<&'a [u8], Error> {
        let left = &self.bytes[self.at..];
        let taken = usize::try_from(len).ok().and_then(|len| left.get(..len)).ok_or_else(|| self.truncated(len))?;
        self.at += taken.len();
        Ok(taken)
    }

    /// Refuses `count` items that take at least `bytes` each where the file has no room for them.
    pub(super) fn expect(&self, count: u64, bytes: u64) -> Result<(), Error> {
        let needed = count.saturating_mul(bytes);
        let left = (self.bytes.len() - self.at) as u64;
        if needed > left { Err(self.truncated(needed)) } else { Ok(()) }
    }

    /// `count` scalars of `N` bytes each.
    pub(super) fn scalars<const N: usize>(&mut self, count: u64) -> Result<&'a [[u8; N]], Error> {
        let bytes = self.take(count.saturating_mul(N as u64))?;
        Ok(bytes.as_chunks().0)
    }

    pub(super) fn scalar<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        Ok(self.scalars(1)?[0])
    }

    pub(super) fn u32(&mut self) -> Result<u32, Error> {
        self.scalar().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Error> {
        self.scalar().map(u64::from_le_bytes)
    }

    /// A length of 64 bits, then as many bytes.
    pub(super) fn string(&mut self) -> Result<&'a [u8], Error> {
        let len = self.u64()?;
        self.take(len)
    }

    fn truncated(&self, needed: u64) -> Error {
        Error::Truncated {
            file: self.file.into(),
            what: self.reading.to_string(),
            at: self.at(),
            needed,
            left: (self.bytes.len() - self.at) as u64,
        }
    }
}
