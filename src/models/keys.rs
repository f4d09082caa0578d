//! Hyperparameters of an architecture, each checked where it is read.

use super::{Error, Result};
use crate::gguf::{Gguf, Metadata, Value};
use std::fmt::Display;

/// The metadata keys under an architecture's name.
pub struct Keys<'a> {
    file: &'a str,
    architecture: &'a str,
    metadata: &'a Metadata,
}

/// No dimension of a model is larger: products of two stay far below 2^63.
const LARGEST: u64 = 1 << 24;

impl<'a> Keys<'a> {
    pub fn new(gguf: &'a Gguf, architecture: &'a str) -> Self {
        Keys::of(gguf.name(), gguf.metadata(), architecture)
    }

    /// Those of metadata that stand in no file, under a name for messages.
    pub fn of(file: &'a str, metadata: &'a Metadata, architecture: &'a str) -> Self {
        Keys { file, architecture, metadata }
    }

    /// As GGUF files name it.
    pub fn architecture(&self) -> &'a str {
        self.architecture
    }

    /// The full name of a key: `qwen3moe.expert_count`.
    pub fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    /// The file's name, for messages.
    pub fn file(&self) -> &'a str {
        self.file
    }

    /// An error about a key's value.
    pub fn error(&self, key: &str, value: impl Display, problem: impl Into<String>) -> Error {
        Error::Key { file: self.file.into(), key: self.name(key), value: value.to_string(), problem: problem.into() }
    }

    /// A dimension or count: 1 to 2^24.
    pub fn size(&self, key: &str) -> Result<usize> {
        let value = self.metadata.require_u64(&self.name(key))?;
        self.checked(key, value)
    }

    /// As [`Keys::size`], or `default` if the key is absent.
    pub fn size_or(&self, key: &str, default: usize) -> Result<usize> {
        match self.metadata.u64(&self.name(key))? {
            Some(value) => self.checked(key, value),
            None => Ok(default),
        }
    }

    /// A number of things that there may be none of, or `default` if the key is absent.
    pub fn count_or(&self, key: &str, default: usize) -> Result<usize> {
        match self.metadata.u64(&self.name(key))? {
            Some(0) => Ok(0),
            Some(value) => self.checked(key, value),
            None => Ok(default),
        }
    }

    /// As [`Keys::count_or`] 0, where the key may hold one number for each layer.
    pub fn count_of_layer(&self, key: &str, layer: usize) -> Result<usize> {
        if !matches!(self.metadata.get(&self.name(key)), Some(Value::Array(_))) {
            return self.count_or(key, 0);
        }
        let values = self.metadata.u32s(&self.name(key))?.unwrap_or_default();
        match values.get(layer) {
            Some(0) => Ok(0),
            Some(value) => self.checked(key, (*value).into()),
            None => Err(self.error(key, format!("{} numbers", values.len()), format!("layer {layer} needs one"))),
        }
    }

    /// As [`Keys::size`], where the key may hold one number for each layer.
    pub fn size_of_layer(&self, key: &str, layer: usize) -> Result<usize> {
        match self.metadata.get(&self.name(key)) {
            Some(Value::Array(_)) => {
                let value = self.count_of_layer(key, layer)?;
                self.checked(key, value as u64)
            }
            _ => self.size(key),
        }
    }

    /// As [`Keys::width`], where the key may hold one number for each layer.
    pub fn width_of_layer(&self, key: &str, layer: usize) -> Result<usize> {
        let value = self.size_of_layer(key, layer)?;
        if value.is_multiple_of(4) {
            return Ok(value);
        }
        Err(self.error(key, value, "a multiple of 4 is needed"))
    }

    /// Fails if the key holds an array of another length than the number of layers.
    pub fn one_a_layer(&self, key: &str, layers: usize) -> Result<()> {
        match self.metadata.get(&self.name(key)) {
            Some(Value::Array(values)) if values.len() != layers => {
                let (found, problem) = (format!("an array of {}", values.len()), format!("there are {layers} layers"));
                Err(self.error(key, found, problem))
            }
            _ => Ok(()),
        }
    }

    /// A bound of one layer; none if the key is absent or holds 0.
    pub fn limit_of_layer(&self, key: &str, layer: usize) -> Result<Option<f32>> {
        let Some(values) = self.metadata.f32s(&self.name(key))? else { return Ok(None) };
        match values.get(layer) {
            Some(0.0) => Ok(None),
            Some(limit) if limit.is_finite() && *limit > 0.0 => Ok(Some(*limit)),
            Some(limit) => Err(self.error(key, limit, "a positive number, or 0 for none, is needed")),
            None => Err(self.error(key, format!("{} numbers", values.len()), format!("layer {layer} needs one"))),
        }
    }

    /// A flag of one layer, if the key is present.
    pub fn flag_of_layer(&self, key: &str, layer: usize) -> Result<Option<bool>> {
        let Some(values) = self.metadata.bools(&self.name(key))? else { return Ok(None) };
        let missing = || self.error(key, format!("{} flags", values.len()), format!("layer {layer} needs one"));
        values.get(layer).copied().ok_or_else(missing).map(Some)
    }

    /// As [`Keys::size`], of a row that kernels read four values at a time.
    pub fn width(&self, key: &str) -> Result<usize> {
        let value = self.size(key)?;
        if value.is_multiple_of(4) {
            return Ok(value);
        }
        Err(self.error(key, value, "a multiple of 4 is needed"))
    }

    /// As [`Keys::width`], or `default` if the key is absent.
    pub fn width_or(&self, key: &str, default: usize) -> Result<usize> {
        match self.metadata.get(&self.name(key)) {
            Some(_) => self.width(key),
            None => Ok(default),
        }
    }

    fn checked(&self, key: &str, value: u64) -> Result<usize> {
        if (1..=LARGEST).contains(&value) {
            return Ok(value as usize);
        }
        Err(self.error(key, value, format!("a number from 1 to {LARGEST} is needed")))
    }

    /// A finite, positive number, if the key is present.
    pub fn positive(&self, key: &str) -> Result<Option<f32>> {
        match self.metadata.f32(&self.name(key))? {
            Some(_) => self.positive_or(key, 1.0).map(Some),
            None => Ok(None),
        }
    }

    /// A finite, positive number, or `default` if the key is absent.
    pub fn positive_or(&self, key: &str, default: f32) -> Result<f32> {
        let value = self.metadata.f32(&self.name(key))?.unwrap_or(default);
        if value.is_finite() && value > 0.0 {
            return Ok(value);
        }
        Err(self.error(key, value, "a positive number is needed"))
    }

    /// A word, if the key is present.
    pub fn word(&self, key: &str) -> Result<Option<&'a str>> {
        Ok(self.metadata.str(&self.name(key))?)
    }

    /// A flag for each of `count` things, if the key is present.
    pub fn flags(&self, key: &str, count: usize) -> Result<Option<Vec<bool>>> {
        let flags = self.metadata.bools(&self.name(key))?;
        match flags.as_ref().map(Vec::len) {
            Some(len) if len != count => Err(self.error(key, format!("{len} flags"), format!("{count} are needed"))),
            _ => Ok(flags),
        }
    }

    /// Whether a flag is set, if the key is present.
    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        Ok(self.metadata.bool(&self.name(key))?)
    }
}
