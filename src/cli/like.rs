//! `--like PRESET`, for every command that takes a MODEL: a model of a published shape, made up, without a file.

use super::model;
use anyhow::{Result, bail};
use halogen::gguf::Gguf;
use halogen::presets::{Mixture, ModelPreset, Synthetic};

#[derive(clap::Args)]
pub struct LikeArgs {
    /// Instead of MODEL: one of this published shape with made-up weights, no file; FORMAT: q4_k_m, q2_k, mxfp4, q8_0, ...
    #[arg(long, value_name = "PRESET[:FORMAT]", conflicts_with = "model")]
    pub like: Option<String>,

    /// With --like: only so many of its layers
    #[arg(long, value_name = "N", requires = "like")]
    pub layers: Option<usize>,

    /// With --like: another seed makes other weights
    #[arg(long, value_name = "N", requires = "like", default_value_t = 1)]
    pub seed: u64,
}

/// A preset, and in which format.
pub struct Like {
    pub preset: &'static ModelPreset,
    pub mixture: Mixture,
}

impl Like {
    pub fn parse(text: &str) -> Result<Like> {
        let (name, format) = text.split_once(':').map_or((text, None), |(name, format)| (name, Some(format)));
        let preset = ModelPreset::named(name)?;
        Ok(Like { preset, mixture: format.map_or(Ok(preset.format()), str::parse)? })
    }

    /// The file with its first `layers` layers.
    pub fn synthetic(&self, layers: usize, seed: u64) -> Result<Synthetic> {
        Ok(Synthetic::new(self.preset, self.mixture, layers, seed)?)
    }
}

impl LikeArgs {
    /// The preset, where there is one.
    pub fn like(&self) -> Result<Option<Like>> {
        self.like.as_deref().map(Like::parse).transpose()
    }

    /// How many of a preset's layers are asked for.
    pub fn layers_of(&self, preset: &ModelPreset) -> Result<usize> {
        let all = preset.layers();
        match self.layers {
            Some(layers) if layers == 0 || layers > all => bail!("--layers {layers}: {} has {all}", preset.name),
            layers => Ok(layers.unwrap_or(all)),
        }
    }

    /// The model: MODEL, or one like a preset.
    pub fn open(&self, named: Option<&str>) -> Result<Gguf> {
        match self.like()? {
            Some(like) => Ok(like.synthetic(self.layers_of(like.preset)?, self.seed)?.gguf()?),
            None => model::open(named),
        }
    }
}
