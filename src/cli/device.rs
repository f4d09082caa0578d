//! `--device` and `--tier`, for every command that computes.

use anyhow::Result;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use halogen::gpu::{Gpu, Selector, Tier};

#[derive(clap::Args)]
pub struct DeviceArgs {
    /// The adapter, by its number in `halogen devices` or a part of its name
    #[arg(long, value_name = "N|NAME")]
    pub device: Option<String>,

    /// Use kernels up to this tier only; core and subgroup compute in f32
    #[arg(long, value_name = "NAME", value_parser = tier_parser())]
    pub tier: Option<Tier>,
}

fn tier_parser() -> impl TypedValueParser<Value = Tier> {
    PossibleValuesParser::new(["core", "subgroup", "f16", "dot", "matrix"]).try_map(|name| name.parse::<Tier>())
}

impl DeviceArgs {
    /// Opens the adapter, and checks that it has the tier.
    pub fn open(&self) -> Result<Gpu> {
        let selector = self.device.as_deref().map_or(Selector::Best, Selector::from);
        let gpu = pollster::block_on(Gpu::new(selector))?;
        if let Some(tier) = self.tier {
            gpu.require(tier)?;
        }
        Ok(gpu)
    }
}
