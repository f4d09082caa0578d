//! Writing GGUF: synthetic models for tests, and converted ones.

use std::collections::HashSet;
use std::io::{self, Write};

use super::header::{MAGIC, alignment};
use super::{Array, Error, Metadata, TensorInfo, TensorProblem, Value, types};

/// The version that is written.
const VERSION: u32 = 3;
/// What stands for the file's name in messages.
const FILE: &str = "new file";

/// A GGUF file in the making, version 3, little-endian: metadata, then tensors in the order they were added.
///
/// ```
/// use halogen::gguf::{Gguf, Metadata, Writer};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut metadata = Metadata::new();
/// metadata.insert("general.architecture", "llama".into());
/// let mut writer = Writer::new(&metadata)?;
/// writer.tensor("output_norm.weight", &[4], 0, &[0; 16])?;
/// let mut file = Vec::new();
/// writer.write(&mut file)?;
/// assert_eq!(Gguf::from_bytes("tiny.gguf", file)?.architecture()?, "llama");
/// # Ok(())
/// # }
/// ```
pub struct Writer<'a> {
    metadata: &'a Metadata,
    /// Of the tensor data, from `general.alignment`, in bytes.
    alignment: u64,
    tensors: Vec<Tensor<'a>>,
}

struct Tensor<'a> {
    name: &'a str,
    dims: &'a [u64],
    ggml_type: u32,
    bytes: &'a [u8],
}

impl<'a> Writer<'a> {
    /// # Errors
    /// `general.alignment` is there and is no alignment.
    pub fn new(metadata: &'a Metadata) -> Result<Self, Error> {
        Ok(Writer { metadata, alignment: alignment(metadata)?, tensors: Vec::new() })
    }

    /// Adds a tensor. `dims` has the innermost, the columns, first; `ggml_type` is ggml's number.
    ///
    /// # Errors
    /// The name stands twice, ggml has no such type or shape, or `bytes` is not as long as they make it.
    pub fn tensor(&mut self, name: &'a str, dims: &'a [u64], ggml_type: u32, bytes: &'a [u8]) -> Result<(), Error> {
        let error = |problem| Error::tensor(FILE, name, problem);
        if self.tensors.iter().any(|tensor| tensor.name == name) {
            return Err(error(TensorProblem::Duplicate { first: FILE.into() }));
        }
        let expected = types::tensor_bytes(ggml_type, dims).map_err(error)?;
        let found = bytes.len() as u64;
        if found != expected {
            return Err(error(TensorProblem::WrongBytes { found, expected }));
        }
        self.tensors.push(Tensor { name, dims, ggml_type, bytes });
        Ok(())
    }

    /// Writes the whole file.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let tensors = self.tensors.iter().map(|t| (t.name, t.dims, t.ggml_type, t.bytes.len() as u64));
        out.write_all(&encode(self.metadata, self.alignment, tensors))?;
        for tensor in &self.tensors {
            out.write_all(tensor.bytes)?;
            let len = tensor.bytes.len() as u64;
            let padding = len.next_multiple_of(self.alignment) - len;
            io::copy(&mut io::Read::take(io::repeat(0), padding), out)?;
        }
        Ok(())
    }
}

/// The header of a file whose tensors follow it in this order, each from a multiple of `general.alignment`: for files whose
/// bytes are made where they are read ([`Gguf::from_source`](super::Gguf::from_source)).
///
/// # Errors
/// As of [`Writer::new`] and [`Writer::tensor`].
pub fn header(metadata: &Metadata, tensors: &[TensorInfo]) -> Result<Vec<u8>, Error> {
    let mut names = HashSet::new();
    for TensorInfo { name, dims, ggml_type, bytes, .. } in tensors {
        let error = |problem| Error::tensor(FILE, name, problem);
        if !names.insert(name) {
            return Err(error(TensorProblem::Duplicate { first: FILE.into() }));
        }
        let expected = types::tensor_bytes(*ggml_type, dims).map_err(error)?;
        if *bytes != expected {
            return Err(error(TensorProblem::WrongBytes { found: *bytes, expected }));
        }
    }
    let tensors = tensors.iter().map(|t| (t.name.as_str(), &t.dims[..], t.ggml_type, t.bytes));
    Ok(encode(metadata, alignment(metadata)?, tensors))
}

/// Magic, metadata and the table of tensors (name, dimensions, type, bytes), padded to where the first one starts.
fn encode<'t>(
    metadata: &Metadata,
    alignment: u64,
    tensors: impl ExactSizeIterator<Item = (&'t str, &'t [u64], u32, u64)>,
) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    put_len(&mut out, tensors.len());
    put_len(&mut out, metadata.len());
    for (key, value) in metadata.iter() {
        put_string(&mut out, key.as_bytes());
        put_value(&mut out, value);
    }
    let mut offset = 0u64;
    for (name, dims, ggml_type, bytes) in tensors {
        put_string(&mut out, name.as_bytes());
        out.extend_from_slice(&(dims.len() as u32).to_le_bytes());
        out.extend(dims.iter().flat_map(|dim| dim.to_le_bytes()));
        out.extend_from_slice(&ggml_type.to_le_bytes());
        out.extend_from_slice(&offset.to_le_bytes());
        offset += bytes.next_multiple_of(alignment);
    }
    out.resize(out.len().next_multiple_of(alignment as usize), 0);
    out
}

fn put_len(out: &mut Vec<u8>, len: usize) {
    out.extend_from_slice(&(len as u64).to_le_bytes());
}

fn put_string(out: &mut Vec<u8>, string: &[u8]) {
    put_len(out, string.len());
    out.extend_from_slice(string);
}

/// Type number, then value.
fn put_value(out: &mut Vec<u8>, value: &Value) {
    let mut put = |type_number: u32, bytes: &[u8]| {
        out.extend_from_slice(&type_number.to_le_bytes());
        out.extend_from_slice(bytes);
    };
    match value {
        Value::U8(v) => put(0, &v.to_le_bytes()),
        Value::I8(v) => put(1, &v.to_le_bytes()),
        Value::U16(v) => put(2, &v.to_le_bytes()),
        Value::I16(v) => put(3, &v.to_le_bytes()),
        Value::U32(v) => put(4, &v.to_le_bytes()),
        Value::I32(v) => put(5, &v.to_le_bytes()),
        Value::F32(v) => put(6, &v.to_le_bytes()),
        Value::Bool(v) => put(7, &[u8::from(*v)]),
        Value::String(v) => {
            put(8, &(v.len() as u64).to_le_bytes());
            out.extend_from_slice(v);
        }
        Value::Array(array) => {
            put(9, &[]);
            put_array(out, array);
        }
        Value::U64(v) => put(10, &v.to_le_bytes()),
        Value::I64(v) => put(11, &v.to_le_bytes()),
        Value::F64(v) => put(12, &v.to_le_bytes()),
    }
}

/// Element type number, count, elements.
fn put_array(out: &mut Vec<u8>, array: &Array) {
    fn each<const N: usize, T: Copy>(out: &mut Vec<u8>, values: &[T], encode: fn(T) -> [u8; N]) {
        out.extend(values.iter().flat_map(|&value| encode(value)));
    }
    let type_number: u32 = match array {
        Array::U8(_) => 0,
        Array::I8(_) => 1,
        Array::U16(_) => 2,
        Array::I16(_) => 3,
        Array::U32(_) => 4,
        Array::I32(_) => 5,
        Array::F32(_) => 6,
        Array::Bool(_) => 7,
        Array::String(_) => 8,
        Array::Array(_) => 9,
        Array::U64(_) => 10,
        Array::I64(_) => 11,
        Array::F64(_) => 12,
    };
    out.extend_from_slice(&type_number.to_le_bytes());
    put_len(out, array.len());
    match array {
        Array::U8(v) => out.extend_from_slice(v),
        Array::I8(v) => each(out, v, i8::to_le_bytes),
        Array::U16(v) => each(out, v, u16::to_le_bytes),
        Array::I16(v) => each(out, v, i16::to_le_bytes),
        Array::U32(v) => each(out, v, u32::to_le_bytes),
        Array::I32(v) => each(out, v, i32::to_le_bytes),
        Array::F32(v) => each(out, v, f32::to_le_bytes),
        Array::Bool(v) => each(out, v, |v| [u8::from(v)]),
        Array::String(v) => v.iter().for_each(|string| put_string(out, string)),
        Array::Array(v) => v.iter().for_each(|inner| put_array(out, inner)),
        Array::U64(v) => each(out, v, u64::to_le_bytes),
        Array::I64(v) => each(out, v, i64::to_le_bytes),
        Array::F64(v) => each(out, v, f64::to_le_bytes),
    }
}
