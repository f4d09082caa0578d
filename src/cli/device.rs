//! `--device` and `--tier`, for every command that computes.

use anyhow::{Result, bail};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use halogen::gpu::{Gpu, Selector, Tier, adapters};

#[derive(clap::Args)]
pub struct DeviceArgs {
    /// The adapter, by its number in `halogen devices` or a part of its name; `0,1`: layers lie on both
    #[arg(long, value_name = "N|NAME,..")]
    pub device: Option<String>,

    /// Use kernels up to this tier only; core and subgroup compute in f32
    #[arg(long, value_name = "NAME", value_parser = tier_parser())]
    pub tier: Option<Tier>,

    /// Memory of the device to use, of several of each; experts that do not fit are read as they are needed [default: what it has]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub gpu_memory: Option<u64>,
}

/// `8GiB`, `24GB`, `500M` (decimal) or plain bytes.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}`: a size such as 8GiB, 24GB or 500MB is needed");
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim().to_ascii_lowercase();
    let (prefix, base) = match unit.strip_suffix("ib") {
        Some(prefix) => (prefix, 1024f64),
        None => (unit.strip_suffix('b').unwrap_or(&unit), 1000.0),
    };
    let power = ["", "k", "m", "g", "t"].iter().position(|p| *p == prefix).ok_or_else(wrong)?;
    let bytes = number.parse::<f64>().map_err(|_| wrong())? * base.powi(power as i32);
    if bytes >= 1.0 { Ok(bytes as u64) } else { Err(wrong()) }
}

fn tier_parser() -> impl TypedValueParser<Value = Tier> {
    PossibleValuesParser::new(Tier::ALL.map(Tier::name)).try_map(|name| name.parse::<Tier>())
}

impl DeviceArgs {
    /// Opens the adapter, and checks that it has the tier.
    ///
    /// # Errors
    /// Several adapters.
    pub fn open(&self) -> Result<Gpu> {
        self.the_one(self.open_all()?)
    }

    /// The device, if it is one.
    pub fn the_one(&self, gpus: Vec<Gpu>) -> Result<Gpu> {
        match &gpus[..] {
            [gpu] => Ok(gpu.clone()),
            _ => bail!(
                "--device {}: one device is measured here; run, logits, fit and bench model take several",
                self.device.as_deref().unwrap_or_default()
            ),
        }
    }

    /// As [`DeviceArgs::open`], of one adapter or several: one that is named twice is opened twice.
    pub fn open_all(&self) -> Result<Vec<Gpu>> {
        self.open_each(|selector| pollster::block_on(Gpu::new(selector)))
    }

    /// As [`DeviceArgs::open_all`], devices that can read weights in the file's own pages.
    pub fn open_importing(&self) -> Result<Vec<Gpu>> {
        self.open_each(|selector| pollster::block_on(Gpu::importing(selector)))
    }

    fn open_each(&self, open: impl Fn(Selector) -> halogen::gpu::Result<Gpu>) -> Result<Vec<Gpu>> {
        let open = |selector| {
            let gpu = open(selector)?;
            if let Some(tier) = self.tier {
                gpu.require(tier)?;
            }
            Ok(gpu)
        };
        let names = || pollster::block_on(adapters()).into_iter().map(|adapter| adapter.info.name).collect();
        self.device
            .as_deref()
            .map_or(vec![Selector::Best], |text| selectors(text, names))
            .into_iter()
            .map(open)
            .collect()
    }
}

/// The adapters of `--device`. A name may have commas itself.
fn selectors(text: &str, names: impl FnOnce() -> Vec<String>) -> Vec<Selector> {
    let named = |name: &String| name.to_lowercase().contains(&text.to_lowercase());
    match text.contains(',') && !names().iter().any(named) {
        true => text.split(',').map(|part| Selector::from(part.trim())).collect(),
        false => vec![Selector::from(text)],
    }
}

#[cfg(test)]
mod tests {
    use super::{parse_bytes, selectors};

    #[test]
    fn devices_are_listed_with_commas_and_named_with_them() {
        let names = || vec!["llvmpipe (LLVM 19, 256 bits)".to_string(), "Radeon".to_string()];
        let all = |text| selectors(text, names).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(all("0,1"), ["0", "1"]);
        assert_eq!(all("radeon, 0"), ["radeon", "0"]);
        assert_eq!(all("LLVM 19, 256"), ["LLVM 19, 256"]);
        assert_eq!(all("1"), ["1"]);
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        let cases =
            [("8GiB", 8 << 30), ("24GB", 24_000_000_000), ("1.5g", 1_500_000_000), ("4096", 4096), ("2 kib", 2048)];
        for (text, bytes) in cases {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for text in ["", "GiB", "8 apples", "-1", "0", "1.2.3GB"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }
}
