//! Machines by name. Rates in the file are GB/s (10^9) and TFLOP/s, memory is GiB.

use super::{Error, Result};
use crate::memory::Machine;
use serde::{Deserialize, Serialize};
use std::sync::LazyLock;

/// A machine that one can buy, or that tables list.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct MachinePreset {
    pub name: String,
    pub title: String,
    pub source: String,
    /// The device computes on the host's memory.
    #[serde(default)]
    pub unified: bool,
    #[serde(default = "one")]
    pub cards: u32,
    #[serde(default = "yes")]
    pub sold: bool,
    /// Of the device; of all cards together.
    pub memory_gib: f64,
    /// What the device may use as the machine comes, and why.
    pub default_gib: f64,
    pub default: String,
    /// What it may use after the usual setting, where there is one.
    pub usable_gib: f64,
    pub setting: Option<String>,
    /// On paper, and as a stream reaches it.
    pub bandwidth: f64,
    pub stream: f64,
    /// Of the host, beside the device's.
    pub ram_gib: Option<f64>,
    pub ram_bandwidth: Option<f64>,
    /// From the host to the device, as copies reach it.
    pub link: Option<f64>,
    pub disk: f64,
    /// f16 products with f32 sums, on matrix hardware.
    pub tflops: Option<f64>,
}

fn one() -> u32 {
    1
}

fn yes() -> bool {
    true
}

const GIB: f64 = (1u64 << 30) as f64;
/// Of the host's memory, for the system and the program.
const SYSTEM: u64 = 6 << 30;

static MACHINES: LazyLock<Vec<MachinePreset>> =
    LazyLock::new(|| serde_json::from_str(include_str!("machines.json")).expect("a file of our own"));

/// All machines, in the file's order.
pub fn machines() -> &'static [MachinePreset] {
    &MACHINES
}

impl MachinePreset {
    /// The machine of a name.
    ///
    /// # Errors
    /// No machine has it.
    pub fn named(name: &str) -> Result<&'static MachinePreset> {
        machines().iter().find(|m| m.name == name).ok_or_else(|| Error::UnknownMachine {
            name: name.into(),
            known: machines().iter().map(|m| m.name.as_str()).collect::<Vec<_>>().join(", "),
        })
    }

    /// What a plan must know: as the machine comes, or after the usual setting.
    pub fn machine(&self, after_setting: bool) -> Machine {
        let usable = if after_setting { self.usable_gib } else { self.default_gib };
        Machine {
            unified: self.unified,
            device: (usable * GIB) as u64,
            stream: self.stream * 1e9,
            ram: self.ram_gib.map_or(0, |gib| ((gib * GIB) as u64).saturating_sub(SYSTEM)),
            ram_stream: self.ram_bandwidth.unwrap_or(self.stream) * 1e9,
            link: self.link.unwrap_or(self.stream) * 1e9,
            disk: self.disk * 1e9,
            flops: self.tflops.map(|t| t * 1e12),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_are_plausible() {
        for m in machines() {
            assert!(m.default_gib <= m.usable_gib && m.usable_gib <= m.memory_gib, "{}", m.name);
            assert!(m.stream < m.bandwidth && m.stream > 0.8 * m.bandwidth, "{}", m.name);
            assert_eq!(m.unified, m.link.is_none() && m.ram_gib.is_none(), "{}", m.name);
            assert_eq!(m.setting.is_some(), m.default_gib < m.usable_gib, "{}", m.name);
        }
        let unsold: Vec<&str> = machines().iter().filter(|m| !m.sold).map(|m| m.name.as_str()).collect();
        assert_eq!(unsold, ["m3-ultra-192"]);
        assert!(MachinePreset::named("abacus").is_err());
    }
}
