//! Metadata: typed key-value pairs, and the questions that the other floors ask them.

use std::collections::HashMap;

use super::{Array, Error, KeyProblem, Value};

/// All key-value pairs of a file, in file order.
///
/// The typed getters return `Ok(None)` where the key is absent, and an error that names the key, the type expected and
/// the type found where it holds something else. Integers convert between widths and signs when the value fits. A
/// `require_` twin, where there is one, makes absence an error too.
#[derive(Clone, Debug)]
pub struct Metadata {
    /// The file's name, which starts every message.
    file: String,
    pairs: Vec<(String, Value)>,
    index: HashMap<String, usize>,
}

impl Default for Metadata {
    fn default() -> Self {
        Metadata::of_file("metadata")
    }
}

impl Metadata {
    /// Metadata of no file: for models made in memory.
    pub fn new() -> Self {
        Metadata::default()
    }

    pub(super) fn of_file(file: &str) -> Self {
        Metadata { file: file.into(), pairs: Vec::new(), index: HashMap::new() }
    }

    /// Sets a key. One that is there already keeps its place.
    pub fn insert(&mut self, key: impl Into<String>, value: Value) {
        let key = key.into();
        if let Some(&at) = self.index.get(&key) {
            self.pairs[at].1 = value;
        } else {
            self.index.insert(key.clone(), self.pairs.len());
            self.pairs.push((key, value));
        }
    }

    pub fn get(&self, key: &str) -> Option<&Value> {
        self.index.get(key).map(|&at| &self.pairs[at].1)
    }

    /// The pairs in file order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.pairs.iter().map(|(key, value)| (key.as_str(), value))
    }

    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    pub fn u32(&self, key: &str) -> Result<Option<u32>, Error> {
        self.integer(key, "u32")
    }

    pub fn u64(&self, key: &str) -> Result<Option<u64>, Error> {
        self.integer(key, "u64")
    }

    /// Any number, rounded to the nearest `f32`.
    pub fn f32(&self, key: &str) -> Result<Option<f32>, Error> {
        self.typed(key, "f32", |value| match *value {
            Value::F32(v) => Some(v),
            Value::F64(v) => Some(v as f32),
            _ => value.integer().map(|v| v as f32),
        })
    }

    pub fn bool(&self, key: &str) -> Result<Option<bool>, Error> {
        self.typed(key, "bool", |value| match *value {
            Value::Bool(v) => Some(v),
            _ => None,
        })
    }

    /// A string that is valid UTF-8; one that is not is an error.
    pub fn str(&self, key: &str) -> Result<Option<&str>, Error> {
        let Some(bytes) = self.bytes(key)? else { return Ok(None) };
        let text = std::str::from_utf8(bytes);
        text.map(Some).map_err(|e| self.error(key, KeyProblem::NotUtf8 { valid_up_to: e.valid_up_to() }))
    }

    /// A string as it stands in the file.
    pub fn bytes(&self, key: &str) -> Result<Option<&[u8]>, Error> {
        self.typed(key, "string", |value| match value {
            Value::String(bytes) => Some(bytes.as_slice()),
            _ => None,
        })
    }

    /// An array of strings, as bytes: vocabularies hold pieces that are no valid UTF-8.
    pub fn strings(&self, key: &str) -> Result<Option<Vec<&[u8]>>, Error> {
        self.typed(key, "array of string", |value| match value {
            Value::Array(Array::String(strings)) => Some(strings.iter().collect()),
            _ => None,
        })
    }

    pub fn u32s(&self, key: &str) -> Result<Option<Vec<u32>>, Error> {
        self.integers(key, "array of u32", "u32")
    }

    pub fn i32s(&self, key: &str) -> Result<Option<Vec<i32>>, Error> {
        self.integers(key, "array of i32", "i32")
    }

    /// An array of any numbers, each rounded to the nearest `f32`.
    pub fn f32s(&self, key: &str) -> Result<Option<Vec<f32>>, Error> {
        self.typed(key, "array of f32", |value| match value {
            Value::Array(Array::F32(values)) => Some(values.clone()),
            Value::Array(Array::F64(values)) => Some(values.iter().map(|&v| v as f32).collect()),
            Value::Array(array) => Some(array.integers()?.map(|v| v as f32).collect()),
            _ => None,
        })
    }

    pub fn bools(&self, key: &str) -> Result<Option<Vec<bool>>, Error> {
        self.typed(key, "array of bool", |value| match value {
            Value::Array(Array::Bool(values)) => Some(values.clone()),
            _ => None,
        })
    }

    pub fn require_u32(&self, key: &str) -> Result<u32, Error> {
        self.present(key, self.u32(key)?)
    }

    pub fn require_u64(&self, key: &str) -> Result<u64, Error> {
        self.present(key, self.u64(key)?)
    }

    pub fn require_str(&self, key: &str) -> Result<&str, Error> {
        self.present(key, self.str(key)?)
    }

    pub fn require_strings(&self, key: &str) -> Result<Vec<&[u8]>, Error> {
        self.present(key, self.strings(key)?)
    }

    pub(super) fn error(&self, key: &str, problem: KeyProblem) -> Error {
        Error::key(&self.file, key, problem)
    }

    fn present<T>(&self, key: &str, value: Option<T>) -> Result<T, Error> {
        value.ok_or_else(|| self.error(key, KeyProblem::Missing))
    }

    /// What `read` makes of the key's value; where it makes nothing of it, the value has the wrong type.
    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &'static str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match read(value) {
            Some(read) => Ok(Some(read)),
            None => Err(self.error(key, KeyProblem::WrongType { expected, found: value.type_name() })),
        }
    }

    fn integer<T: TryFrom<i128>>(&self, key: &str, expected: &'static str) -> Result<Option<T>, Error> {
        let Some(value) = self.typed(key, expected, Value::integer)? else { return Ok(None) };
        T::try_from(value).map(Some).map_err(|_| self.error(key, KeyProblem::OutOfRange { value, expected }))
    }

    fn integers<T: TryFrom<i128>>(
        &self,
        key: &str,
        array: &'static str,
        expected: &'static str,
    ) -> Result<Option<Vec<T>>, Error> {
        let values = self.typed(key, array, |value| match value {
            Value::Array(array) => array.integers(),
            _ => None,
        })?;
        let Some(values) = values else { return Ok(None) };
        let fit = |(index, value)| {
            T::try_from(value).map_err(|_| self.error(key, KeyProblem::ElementOutOfRange { index, value, expected }))
        };
        values.enumerate().map(fit).collect::<Result<_, _>>().map(Some)
    }
}
