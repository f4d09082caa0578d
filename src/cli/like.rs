//! `--like PRESET`, for every command that takes a MODEL: a model of a published shape, made up, without a file.

use super::model;
use anyhow::{Result, bail};
use halogen::gguf::Gguf;
use halogen::memory::{Demand, KvFormat, Routing};
use halogen::presets::{Mixture, ModelPreset, Synthetic, Usage, asked};

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

    /// How often tokens use which experts: uniform, or zipf:S, the one of rank r as 1 / r^S [default: uniform]
    #[arg(long, value_name = "ROUTING")]
    pub routing: Option<Routing>,
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
    pub fn synthetic(&self, layers: usize, seed: u64, routing: Routing) -> Result<Synthetic> {
        Ok(Synthetic::with_routing(self.preset, self.mixture, layers, seed, routing)?)
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
            Some(like) => Ok(self.made(&like, self.layers_of(like.preset)?)?.gguf()?),
            None => self.open_file(named),
        }
    }

    /// With so many layers.
    pub fn made(&self, like: &Like, layers: usize) -> Result<Synthetic> {
        like.synthetic(layers, self.seed, self.routing.unwrap_or_default())
    }

    fn open_file(&self, named: Option<&str>) -> Result<Gguf> {
        if let Some(routing) = self.routing {
            bail!(
                "--routing {routing}: a file's routers choose as they were trained; only models made up by --like take it"
            );
        }
        model::open(named)
    }

    /// How often the experts of a made-up model are to be used.
    pub fn usage(&self) -> Result<Option<Usage>> {
        Ok(self.like()?.and_then(|like| like.preset.usage(self.routing.unwrap_or_default(), self.seed)))
    }
}

/// A preset of which only some layers were made.
pub struct Cut {
    pub layers: usize,
    pub all: usize,
    /// What a decode step of all layers reads and a prompt of all computes, over what is read and computed here.
    pub decode: f64,
    pub prompt: f64,
}

impl Cut {
    fn new(layers: usize, all: usize, part: &Gguf, whole: &Gguf) -> Result<Cut> {
        let demand = |gguf| asked(gguf, Some(1), KvFormat::F16).map(|asked| asked.demand);
        let (part, whole) = (demand(part)?, demand(whole)?);
        let read = |demand: &Demand| (demand.dense.iter().sum::<u64>() + demand.used_bytes()) as f64;
        let computed = whole.active_parameters as f64 / part.active_parameters as f64;
        Ok(Cut { layers, all, decode: read(&whole) / read(&part), prompt: computed })
    }
}

impl LikeArgs {
    /// As [`LikeArgs::open`]; of a preset, where no number is asked for, with as many layers as `fits` lets pass.
    pub fn open_fitting(
        &self,
        named: Option<&str>,
        fits: impl Fn(&Gguf) -> Result<bool>,
    ) -> Result<(Gguf, Option<Cut>)> {
        let Some(like) = self.like()? else { return Ok((self.open_file(named)?, None)) };
        let made = |layers| -> Result<Gguf> { Ok(self.made(&like, layers)?.gguf()?) };
        let (all, mut layers) = (like.preset.layers(), self.layers_of(like.preset)?);
        let whole = made(all)?;
        if self.layers.is_none() && !fits(&whole)? {
            let mut too_many = all;
            layers = 1;
            while too_many - layers > 1 {
                let middle = layers.midpoint(too_many);
                if fits(&made(middle)?)? {
                    layers = middle;
                } else {
                    too_many = middle;
                }
            }
        }
        if layers == all {
            return Ok((whole, None));
        }
        let part = made(layers)?;
        let cut = Cut::new(layers, all, &part, &whole)?;
        Ok((part, Some(cut)))
    }
}
