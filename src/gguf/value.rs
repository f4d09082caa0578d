//! Metadata: typed key-value pairs.

use std::collections::HashMap;

/// A metadata value. Arrays of the types that grow large are kept flat.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    U64(u64),
    I64(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    /// Bytes, not text: vocabularies hold pieces that are no valid UTF-8.
    String(Vec<u8>),
    Array(Vec<Value>),
}

/// All key-value pairs of a file, in file order.
#[derive(Clone, Debug, Default)]
pub struct Metadata {
    pairs: Vec<(String, Value)>,
    index: HashMap<String, usize>,
}
