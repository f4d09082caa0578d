//! The header of one file: magic, version, metadata, tensor table.
//!
//! Layout: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>. Nothing here allocates by a count from the file
//! before the file has been seen to have room for as many items.

use super::cursor::{Cursor, Reading};
use super::error::printable;
use super::{Array, Error, KeyProblem, Metadata, Strings, TensorInfo, TensorProblem, Value, types};

pub(super) const MAGIC: &[u8; 4] = b"GGUF";
/// The magics of the formats before GGUF, which were written as little-endian words.
const PREDECESSORS: [&[u8; 4]; 4] = [b"lmgg", b"fmgg", b"tjgg", b"algg"];
/// Where `general.alignment` is absent, says the specification.
const DEFAULT_ALIGNMENT: u64 = 32;
/// This reader's limit: a huge page. Files in the wild use 32 to 65,536.
const MAX_ALIGNMENT: u64 = 2 << 20;
/// This reader's limit. No key in use nests at all.
const MAX_ARRAY_DEPTH: u32 = 4;
/// The smallest key-value pair: an empty key's length, a type, one byte.
const MIN_PAIR_BYTES: u64 = 8 + 4 + 1;
/// The smallest row of the tensor table: an empty name's length, a dimension count, a type, an offset.
const MIN_TENSOR_BYTES: u64 = 8 + 4 + 4 + 8;

/// What one file says about itself.
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) metadata: Metadata,
    /// In file order. `shard` is 0 in all of them: one file does not know its place.
    pub(super) tensors: Vec<TensorInfo>,
}

impl Header {
    /// Reads the header of a file of `len` bytes, of which `bytes` are the first. `file` is its name, for messages.
    pub(super) fn parse(file: &str, bytes: &[u8], len: u64) -> Result<Header, Error> {
        if !bytes.starts_with(MAGIC) {
            return Err(Error::NotGguf { file: file.into(), found: what_is(bytes) });
        }
        let mut cursor = Cursor::new(file, bytes);
        cursor.reading = Reading::Header("magic and version");
        cursor.take(MAGIC.len() as u64)?;
        let version = version(&mut cursor)?;
        cursor.reading = Reading::Header("tensor count");
        let tensor_count = cursor.u64()?;
        cursor.reading = Reading::Header("metadata count");
        let pair_count = cursor.u64()?;
        let metadata = metadata(&mut cursor, pair_count)?;
        let alignment = alignment(&metadata)?;
        let mut tensors = tensor_table(&mut cursor, tensor_count)?;
        place(file, &mut tensors, cursor.at().next_multiple_of(alignment), alignment, len)?;
        Ok(Header { version, metadata, tensors })
    }
}

/// What a file that is no GGUF file starts with, and what it might be.
fn what_is(bytes: &[u8]) -> String {
    let first = &bytes[..bytes.len().min(8)];
    let guess = match bytes {
        [] => return "it is empty".into(),
        [b'P', b'K', 3, 4, ..] => "a zip archive, as PyTorch checkpoints are",
        [0x80, 2..=5, ..] => "a Python pickle, as old PyTorch checkpoints are",
        [_, _, _, _, _, 0, 0, 0, b'{', ..] => "safetensors",
        [b'<', b'!' | b'h', ..] => "a web page in the place of a download",
        _ if PREDECESSORS.iter().any(|&magic| bytes.starts_with(magic)) => {
            "GGML, GGMF, GGJT or GGLA, which GGUF replaced"
        }
        _ if bytes.starts_with(b"version https://git-lfs") => "a Git LFS pointer; `git lfs pull` fetches the file",
        _ if first.iter().all(|&byte| byte == 0) => "an unfinished download",
        _ => return format!("it starts with \"{}\"", first.escape_ascii()),
    };
    format!("it starts with \"{}\" and looks like {guess}", first.escape_ascii())
}

fn version(cursor: &mut Cursor) -> Result<u32, Error> {
    let version = cursor.u32()?;
    match version {
        2 | 3 => Ok(version),
        // Written in the other byte order, a small version has its low half empty.
        _ if version != 0 && version & 0xffff == 0 => Err(Error::BigEndian { file: cursor.file.into(), version }),
        _ => Err(Error::Version { file: cursor.file.into(), version }),
    }
}

fn metadata(cursor: &mut Cursor, count: u64) -> Result<Metadata, Error> {
    cursor.reading = Reading::Header("metadata");
    cursor.expect(count, MIN_PAIR_BYTES)?;
    let mut metadata = Metadata::of_file(cursor.file);
    for index in 0..count {
        cursor.reading = Reading::Key(index);
        let name = cursor.string()?;
        let Ok(key) = std::str::from_utf8(name) else {
            return Err(Error::key(cursor.file, &String::from_utf8_lossy(name), KeyProblem::NameNotUtf8));
        };
        if metadata.get(key).is_some() {
            return Err(Error::key(cursor.file, key, KeyProblem::Duplicate));
        }
        cursor.reading = Reading::Value(key);
        let type_number = cursor.u32()?;
        let value = value(cursor, key, type_number)?;
        metadata.insert(key, value);
    }
    Ok(metadata)
}

fn value(cursor: &mut Cursor, key: &str, type_number: u32) -> Result<Value, Error> {
    Ok(match type_number {
        0 => Value::U8(cursor.scalar().map(u8::from_le_bytes)?),
        1 => Value::I8(cursor.scalar().map(i8::from_le_bytes)?),
        2 => Value::U16(cursor.scalar().map(u16::from_le_bytes)?),
        3 => Value::I16(cursor.scalar().map(i16::from_le_bytes)?),
        4 => Value::U32(cursor.u32()?),
        5 => Value::I32(cursor.scalar().map(i32::from_le_bytes)?),
        6 => Value::F32(cursor.scalar().map(f32::from_le_bytes)?),
        7 => Value::Bool(cursor.scalar().map(|[byte]| truth(cursor.file, key, byte))??),
        8 => Value::String(cursor.string()?.to_vec()),
        9 => Value::Array(array(cursor, key, 1)?),
        10 => Value::U64(cursor.u64()?),
        11 => Value::I64(cursor.scalar().map(i64::from_le_bytes)?),
        12 => Value::F64(cursor.scalar().map(f64::from_le_bytes)?),
        _ => return Err(Error::key(cursor.file, key, KeyProblem::UnknownType(type_number))),
    })
}

/// An array: its elements' type, their count, the elements. `depth` counts the arrays around them, this one included.
fn array(cursor: &mut Cursor, key: &str, depth: u32) -> Result<Array, Error> {
    fn each<const N: usize, T>(cursor: &mut Cursor, count: u64, decode: fn([u8; N]) -> T) -> Result<Vec<T>, Error> {
        Ok(cursor.scalars(count)?.iter().copied().map(decode).collect())
    }
    if depth > MAX_ARRAY_DEPTH {
        return Err(Error::key(cursor.file, key, KeyProblem::TooDeep { limit: MAX_ARRAY_DEPTH }));
    }
    let type_number = cursor.u32()?;
    let count = cursor.u64()?;
    Ok(match type_number {
        0 => Array::U8(each(cursor, count, u8::from_le_bytes)?),
        1 => Array::I8(each(cursor, count, i8::from_le_bytes)?),
        2 => Array::U16(each(cursor, count, u16::from_le_bytes)?),
        3 => Array::I16(each(cursor, count, i16::from_le_bytes)?),
        4 => Array::U32(each(cursor, count, u32::from_le_bytes)?),
        5 => Array::I32(each(cursor, count, i32::from_le_bytes)?),
        6 => Array::F32(each(cursor, count, f32::from_le_bytes)?),
        7 => {
            let bytes = cursor.take(count)?;
            Array::Bool(bytes.iter().map(|&byte| truth(cursor.file, key, byte)).collect::<Result<_, _>>()?)
        }
        8 => {
            cursor.expect(count, 8)?;
            let mut strings = Strings::default();
            for _ in 0..count {
                strings.push(cursor.string()?);
            }
            Array::String(strings)
        }
        9 => {
            cursor.expect(count, 12)?;
            Array::Array((0..count).map(|_| array(cursor, key, depth + 1)).collect::<Result<_, _>>()?)
        }
        10 => Array::U64(each(cursor, count, u64::from_le_bytes)?),
        11 => Array::I64(each(cursor, count, i64::from_le_bytes)?),
        12 => Array::F64(each(cursor, count, f64::from_le_bytes)?),
        _ => return Err(Error::key(cursor.file, key, KeyProblem::UnknownType(type_number))),
    })
}

fn truth(file: &str, key: &str, byte: u8) -> Result<bool, Error> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Error::key(file, key, KeyProblem::NotBool(byte))),
    }
}

/// `general.alignment`: what every tensor's offset, and the start of the tensor data, are multiples of.
pub(super) fn alignment(metadata: &Metadata) -> Result<u64, Error> {
    const KEY: &str = "general.alignment";
    let found = metadata.u64(KEY)?.unwrap_or(DEFAULT_ALIGNMENT);
    if found.is_power_of_two() && (8..=MAX_ALIGNMENT).contains(&found) {
        return Ok(found);
    }
    Err(metadata.error(KEY, KeyProblem::Alignment { found, limit: MAX_ALIGNMENT }))
}

/// The tensors, with offsets as in the file: from the start of the tensor data.
fn tensor_table(cursor: &mut Cursor, count: u64) -> Result<Vec<TensorInfo>, Error> {
    cursor.reading = Reading::Header("tensor table");
    cursor.expect(count, MIN_TENSOR_BYTES)?;
    (0..count).map(|index| tensor(cursor, index)).collect()
}

fn tensor(cursor: &mut Cursor, index: u64) -> Result<TensorInfo, Error> {
    cursor.reading = Reading::TensorName(index);
    let name = cursor.string()?;
    let Ok(name) = std::str::from_utf8(name) else {
        return Err(Error::tensor(cursor.file, &String::from_utf8_lossy(name), TensorProblem::NameNotUtf8));
    };
    cursor.reading = Reading::Tensor(name);
    let error = |problem| Error::tensor(cursor.file, name, problem);
    let dim_count = cursor.u32()?.into();
    types::check_dim_count(dim_count).map_err(error)?;
    let mut dims: Vec<u64> = cursor.scalars(dim_count)?.iter().copied().map(u64::from_le_bytes).collect();
    if dims.is_empty() {
        dims.push(1); // A scalar, which ggml has as one row of one value.
    }
    let ggml_type = cursor.u32()?;
    let offset = cursor.u64()?;
    let bytes = types::tensor_bytes(ggml_type, &dims).map_err(error)?;
    Ok(TensorInfo { name: name.into(), dims, ggml_type, shard: 0, offset, bytes })
}

/// Makes the tensors' offsets absolute. The tensor data starts at `data`; no tensor leaves the file, and no two share
/// a byte: else a small file could claim more tensor bytes than it has.
fn place(file: &str, tensors: &mut [TensorInfo], data: u64, alignment: u64, file_bytes: u64) -> Result<(), Error> {
    for tensor in tensors.iter_mut() {
        let TensorInfo { offset, bytes, .. } = *tensor;
        if offset % alignment != 0 {
            return Err(Error::tensor(file, &tensor.name, TensorProblem::Misaligned { offset, alignment }));
        }
        let start = data.checked_add(offset);
        match start.filter(|start| start.checked_add(bytes).is_some_and(|end| end <= file_bytes)) {
            Some(start) => tensor.offset = start,
            None => {
                let problem = TensorProblem::OutsideFile { offset, bytes, data, file_bytes };
                return Err(Error::tensor(file, &tensor.name, problem));
            }
        }
    }
    let mut in_order: Vec<&TensorInfo> = tensors.iter().collect();
    in_order.sort_by_key(|tensor| tensor.offset);
    for pair in in_order.windows(2) {
        if pair[0].offset + pair[0].bytes > pair[1].offset {
            let problem = TensorProblem::Overlaps { other: printable(&pair[0].name) };
            return Err(Error::tensor(file, &pair[1].name, problem));
        }
    }
    Ok(())
}
