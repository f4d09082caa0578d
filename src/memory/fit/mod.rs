//! Where a model would lie on a machine, and the speed that the bytes bound. Pure arithmetic: nothing is asked of a device.

mod plan;
mod system;

pub use plan::{Bound, CHUNK, Fit, Place, Plan, plan};
pub use system::System;

use serde::Serialize;
use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

/// What a model asks for.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Demand {
    /// Bytes of the tensors that are read whole for each token: layer by layer, then the output matrix with the final norm.
    pub dense: Vec<u64>,
    /// Bytes of tables of which a token reads a row.
    pub tables: u64,
    /// Layers with routed experts.
    pub experts: Vec<ExpertLayer>,
    /// Of a session at its full context, and what a token reads of it.
    pub kv: u64,
    pub kv_read: u64,
    pub scratch: u64,
    /// Positions of that context.
    pub context: usize,
    /// Parameters that a token meets: each costs a multiply-add.
    pub active_parameters: u64,
    pub parameters: u64,
}

/// The routed experts of one layer.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ExpertLayer {
    /// Of the model's.
    pub layer: u32,
    pub count: u64,
    /// Of each token.
    pub used: u64,
    /// Of one expert, all its matrices.
    pub bytes: u64,
}

impl Demand {
    pub fn dense_bytes(&self) -> u64 {
        self.dense.iter().sum::<u64>() + self.tables
    }

    pub fn expert_bytes(&self) -> u64 {
        self.experts.iter().map(|l| l.count * l.bytes).sum()
    }

    /// Of all routed experts that one token uses.
    pub fn used_bytes(&self) -> u64 {
        self.experts.iter().map(|l| l.used * l.bytes).sum()
    }

    /// Of the first `layers` layers: bytes of their experts, of slots for those of one token, and of those that a token uses in all
    /// others.
    pub fn split_experts(&self, layers: u32) -> [u64; 3] {
        let (host, others): (Vec<&ExpertLayer>, Vec<&ExpertLayer>) =
            self.experts.iter().partition(|l| l.layer < layers);
        let used = |of: &[&ExpertLayer]| of.iter().map(|l| l.used * l.bytes).sum();
        [host.iter().map(|l| l.count * l.bytes).sum(), used(&host), used(&others)]
    }

    pub fn total(&self) -> u64 {
        self.dense_bytes() + self.expert_bytes() + self.kv + self.scratch
    }

    /// The largest dense layer, and what is in no layer: the output matrix and tables, which pass through last.
    pub fn largest_layer(&self) -> (u64, u64) {
        let (output, layers) = self.dense.split_last().map_or((0, &[][..]), |(output, layers)| (*output, layers));
        (layers.iter().max().copied().unwrap_or(0), output + self.tables)
    }

    /// The smallest budget: two slots for dense layers, the cache and scratch, and one token's experts of one layer.
    pub fn least(&self) -> u64 {
        let experts = self.experts.iter().map(|l| l.used * l.bytes).max().unwrap_or(0);
        2 * self.largest_layer().0 + self.kv + self.scratch + experts
    }
}

/// What a machine has: bytes, and bytes a second.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Machine {
    /// The device computes on the host's memory: what is on the device is not beside it.
    pub unified: bool,
    /// Memory that the device may use. Where not all fits, a sixteenth of it is left to others.
    pub device: u64,
    /// Rate at which it is read.
    pub stream: f64,
    /// Memory of the host beside it, and its rate.
    pub ram: u64,
    pub ram_stream: f64,
    /// From the host's memory to the device.
    pub link: f64,
    pub disk: f64,
    /// Operations a second of matrix products, where known.
    pub flops: Option<f64>,
}

/// How often tokens use which experts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Routing {
    /// All alike: a cache hits as often as its share of the experts, the worst case.
    #[default]
    Uniform,
    /// The expert of rank r as 1 / r^s; the cache holds the most used.
    Zipf(f64),
}

impl Routing {
    /// How many of a token's `used` experts, on average, are the one of each rank of `count`: at most 1, and together `used`.
    pub fn usage(self, count: u64, used: u64) -> Vec<f64> {
        let weight = |rank: u64| match self {
            Routing::Uniform => 1.0,
            Routing::Zipf(s) => (rank as f64).powf(-s),
        };
        let weights: Vec<f64> = (1..=count).map(weight).collect();
        // The first that would pass 1 take 1, the others share the rest.
        let mut rest: f64 = weights.iter().sum();
        let mut whole = 0;
        while whole < weights.len().min(used as usize) && weights[whole] * (used as f64 - whole as f64) > rest {
            rest -= weights[whole];
            whole += 1;
        }
        let each = if rest > 0.0 { (used as f64 - whole as f64) / rest } else { 0.0 };
        weights.iter().enumerate().map(|(rank, w)| if rank < whole { 1.0 } else { w * each }).collect()
    }

    /// The share of uses that a cache of `share` of `count` experts serves, of which a token uses `used`.
    pub fn hit_rate(self, count: u64, used: u64, share: f64) -> f64 {
        if share >= 1.0 {
            return 1.0;
        }
        let usage = self.usage(count, used);
        let held = share.max(0.0) * count as f64;
        let part = usage.get(held as usize).map_or(0.0, |next| next * held.fract());
        (usage[..(held as usize).min(usage.len())].iter().sum::<f64>() + part) / used.max(1) as f64
    }
}

impl FromStr for Routing {
    type Err = String;

    /// `uniform`, or `zipf:S`.
    fn from_str(text: &str) -> Result<Routing, String> {
        let zipf = text.strip_prefix("zipf:").and_then(|s| s.parse().ok()).filter(|s| (0.0..=4.0).contains(s));
        match text {
            "uniform" => Ok(Routing::Uniform),
            _ => zipf.map(Routing::Zipf).ok_or("uniform, or zipf:S with S from 0 to 4".into()),
        }
    }
}

impl Display for Routing {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        match self {
            Routing::Uniform => f.write_str("uniform"),
            Routing::Zipf(s) => write!(f, "zipf:{s}"),
        }
    }
}
