//! Models by name. `models.json` holds their hyperparameters under the keys of GGUF files, and where they were published.

use super::{Error, Heads, Mixture, Result, Untold, Usage, tensors};
use crate::gguf::{Metadata, TensorInfo, Value};
use crate::memory::Routing;
use crate::models::Keys;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// The shape of a published model. Blocks that predict further tokens are not part of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelPreset {
    pub name: String,
    /// Other models of the same shape.
    #[serde(default)]
    also: Vec<String>,
    pub source: String,
    /// As GGUF files name it.
    pub architecture: String,
    /// In which files of it usually come.
    #[serde(default)]
    format: Mixture,
    keys: BTreeMap<String, Key>,
    vocabulary: usize,
    #[serde(default)]
    tied: bool,
    #[serde(default)]
    qkv_bias: bool,
    #[serde(default)]
    rope_freqs: bool,
    pub published: Published,
}

/// What others say that a model has, with as many digits as they give: the tests hold the tensors against it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Published {
    pub total: String,
    /// Parameters that a token meets, if that is not all of them.
    pub active: Option<String>,
    /// Tensors that they do not count.
    #[serde(default)]
    pub active_without: Vec<String>,
    /// Sizes of files.
    #[serde(default)]
    pub files: BTreeMap<Mixture, String>,
}

/// A hyperparameter.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Key {
    Flag(bool),
    Size(u32),
    Number(f32),
    Word(String),
    Sizes(Vec<u32>),
    /// One value a layer: `first`, then `cycle` over and over.
    SizeCycle {
        #[serde(default)]
        first: Vec<u32>,
        cycle: Vec<u32>,
    },
    FlagCycle {
        cycle: Vec<bool>,
    },
    NumberCycle {
        cycle: Vec<f32>,
    },
}

impl Key {
    fn value(&self, layers: usize) -> Value {
        fn cycled<T: Clone>(first: &[T], cycle: &[T], layers: usize) -> Vec<T> {
            first.iter().chain(cycle.iter().cycle()).take(layers).cloned().collect()
        }
        match self {
            Key::Flag(v) => (*v).into(),
            Key::Size(v) => (*v).into(),
            Key::Number(v) => (*v).into(),
            Key::Word(v) => v.as_str().into(),
            Key::Sizes(v) => v.clone().into(),
            Key::SizeCycle { first, cycle } => cycled(first, cycle, layers).into(),
            Key::FlagCycle { cycle } => cycled(&[], cycle, layers).into(),
            Key::NumberCycle { cycle } => cycled(&[], cycle, layers).into(),
        }
    }
}

static MODELS: LazyLock<Vec<ModelPreset>> =
    LazyLock::new(|| serde_json::from_str(include_str!("models.json")).expect("a file of our own"));

/// All models, in the file's order.
pub fn models() -> &'static [ModelPreset] {
    &MODELS
}

impl ModelPreset {
    /// The model of a name.
    ///
    /// # Errors
    /// No model has it.
    pub fn named(name: &str) -> Result<&'static ModelPreset> {
        models().iter().find(|m| m.names().any(|n| n == name)).ok_or_else(|| {
            let known = models().iter().flat_map(ModelPreset::names).collect::<Vec<_>>().join(", ");
            Error::UnknownModel { name: name.into(), known }
        })
    }

    /// Of the model, and of others of its shape.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.name).chain(&self.also).map(String::as_str)
    }

    /// The format that its files usually have.
    pub fn format(&self) -> Mixture {
        self.format
    }

    /// A hyperparameter that is one number.
    pub fn size(&self, key: &str) -> Option<usize> {
        match self.keys.get(key) {
            Some(Key::Size(value)) => Some(*value as usize),
            _ => None,
        }
    }

    pub fn layers(&self) -> usize {
        self.size("block_count").expect("the tests ask every model")
    }

    /// Experts of a layer, and how many of them a token uses.
    pub fn experts(&self) -> Option<(usize, usize)> {
        self.size("expert_count").zip(self.size("expert_used_count"))
    }

    /// How often experts are to be used, if the model has any.
    pub fn usage(&self, routing: Routing, seed: u64) -> Option<Usage> {
        let (experts, used) = self.experts()?;
        let groups = self.size("expert_group_count").unwrap_or(1);
        let groups_used = self.size("expert_group_used_count").unwrap_or(groups);
        Some(Usage::new(routing, experts, used, seed).in_groups(groups, groups_used))
    }

    /// The metadata of a file of this model with `layers` layers: all but the vocabulary.
    pub fn metadata(&self, layers: usize) -> Metadata {
        let mut metadata = Metadata::new();
        metadata.insert("general.architecture", self.architecture.as_str().into());
        metadata.insert("general.name", self.name.as_str().into());
        for (key, value) in &self.keys {
            let value = match (key.as_str(), value) {
                ("block_count", _) => (layers as u32).into(),
                ("hash_layer_count", Key::Size(count)) => (*count).min(layers as u32).into(),
                _ => value.value(layers),
            };
            metadata.insert(format!("{}.{key}", self.architecture), value);
        }
        metadata
    }

    /// The widths of the first layer's attention.
    pub fn heads(&self) -> Result<Heads> {
        let metadata = self.metadata(self.layers());
        Heads::of(&Keys::of(&self.name, &metadata, &self.architecture), 0)
    }

    /// The tensors of a file of this model with `layers` layers, as `mixture` stores them.
    pub fn tensors(&self, layers: usize, mixture: Mixture) -> Result<Vec<TensorInfo>> {
        let metadata = self.metadata(layers);
        let keys = Keys::of(&self.name, &metadata, &self.architecture);
        let ModelPreset { vocabulary, tied, qkv_bias, rope_freqs, .. } = *self;
        let shaped = tensors(&keys, &Untold { vocabulary, tied, qkv_bias, qk_norm: false, rope_freqs })?;
        mixture.store(&keys, &shaped)
    }

    /// Whether the embedding is the output matrix, too.
    pub fn is_tied(&self) -> bool {
        self.tied
    }

    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::Format;
    use crate::presets::is_expert;

    /// A published number, and how far it may be off: what its digits hide, at least 2 %.
    fn quantity(text: &str) -> (f64, f64) {
        let digits: String = text.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
        let unit = match text[digits.len()..].chars().next() {
            Some('T') => 1e12,
            Some('B' | 'G') => 1e9,
            other => panic!("{text}: unit {other:?}"),
        };
        let decimals = digits.split_once('.').map_or(0, |(_, d)| d.len() as i32);
        let value = digits.parse::<f64>().unwrap() * unit;
        (value, (0.02 * value).max(0.5 * 10f64.powi(-decimals) * unit))
    }

    fn hold(what: &str, found: f64, text: &str) {
        let (published, tolerance) = quantity(text);
        let off = 100.0 * (found / published - 1.0);
        assert!((found - published).abs() <= tolerance, "{what}: {found:.4e}, published {text}, off by {off:.2} %");
    }

    #[test]
    fn tensors_add_up_to_what_was_published() {
        const I32: u32 = 26;
        for model in models() {
            let tensors = model.tensors(model.layers(), Mixture::Pure(Format::F16)).unwrap();
            let learned: Vec<&TensorInfo> = tensors.iter().filter(|t| t.ggml_type != I32).collect();
            let values = |t: &TensorInfo| t.dims.iter().product::<u64>() as f64;
            hold(&model.name, learned.iter().map(|t| values(t)).sum(), &model.published.total);
            let uncounted = |t: &TensorInfo| model.published.active_without.contains(&t.name);
            let share = model.experts().map_or(1.0, |(count, used)| used as f64 / count as f64);
            let used = |t: &TensorInfo| if is_expert(&t.name) { share } else { 1.0 };
            if let Some(published) = &model.published.active {
                let met = learned.iter().filter(|t| !uncounted(t)).map(|t| values(t) * used(t)).sum();
                hold(&format!("{}, active", model.name), met, published);
            }
            for (mixture, published) in &model.published.files {
                let stored = model.tensors(model.layers(), *mixture).unwrap();
                let bytes: u64 = stored.iter().map(|t| t.bytes).sum();
                hold(&format!("{}, {mixture}", model.name), bytes as f64, published);
            }
        }
    }

    #[test]
    fn every_model_has_a_source_and_a_name_of_its_own() {
        let names: Vec<&str> = models().iter().flat_map(ModelPreset::names).collect();
        let mut unique = names.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique.len(), names.len());
        assert!(models().iter().all(|m| m.source.contains("config.json")));
        assert!(ModelPreset::named("gpt-3").is_err());
    }
}
