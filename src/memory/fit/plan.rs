//! The placement and its bounds.

use super::super::plan::MARGIN;
use super::{Demand, Machine, Routing};
use serde::Serialize;

/// Whether and how a model fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fit {
    /// All of it on the device.
    Resident,
    /// All but routed experts, of which the device caches some.
    Cached,
    /// Not even the dense layers: some of them cross for every token, too.
    Streamed,
    /// The device holds less than the smallest budget.
    No,
}

/// Bytes of one kind at one place.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Place {
    pub what: &'static str,
    pub at: &'static str,
    pub bytes: u64,
}

impl Plan {
    /// Bytes of weights that a load may place on the device; `None` where nothing runs.
    pub fn weight_bytes(&self, demand: &Demand) -> Option<u64> {
        match self.fit {
            Fit::No => None,
            _ if self.needed <= self.usable => Some(u64::MAX),
            _ => Some(self.usable - self.usable / MARGIN - demand.kv - demand.scratch),
        }
    }
}

/// Seconds that reading costs.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Bound {
    /// Of one token: bytes on the device, from the host's memory and from the disk.
    pub device_bytes: f64,
    pub link_bytes: f64,
    pub disk_bytes: f64,
    pub seconds: f64,
    pub tokens_per_second: f64,
}

/// Where everything lies, and how fast it can be at best.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    pub fit: Fit,
    /// Bytes needed for all on the device, bytes that the device may use, and the smallest budget.
    pub needed: u64,
    pub usable: u64,
    pub least: u64,
    pub places: Vec<Place>,
    /// Of the routed experts, how many the device holds, and how many uses that serves.
    pub cached_share: f64,
    pub hit_rate: f64,
    /// A token with an empty cache, and at the full context.
    pub decode: Bound,
    pub decode_full: Bound,
    /// Tokens a second of a chunk of [`CHUNK`], where the matrix rate is known.
    pub prefill: Option<f64>,
    /// What a runtime would reach that computes missing experts on the host, at the rate of its memory.
    pub on_host: Option<f64>,
}

/// Tokens of a chunk of a prefill.
pub const CHUNK: f64 = 512.0;

/// Bytes of weights on the device and off it.
struct Split {
    dense: u64,
    dense_off: u64,
    experts: u64,
    experts_off: u64,
}

/// Places a model on a machine; the experts of the first `on_host` layers live in host memory, whatever fits.
pub fn plan(demand: &Demand, machine: &Machine, routing: Routing, on_host: u32) -> Plan {
    let (needed, least, usable) = (demand.total(), demand.least(), machine.device);
    let fixed = demand.kv + demand.scratch;
    // As a load does it.
    let budget = if needed <= usable { usable } else { usable - usable / MARGIN };
    let [host, slots, used_beside] = demand.split_experts(on_host);
    let (dense, experts) = (demand.dense_bytes(), demand.expert_bytes());
    let one_layer = demand.experts.iter().map(|l| l.used * l.bytes).max().unwrap_or(0);
    let (fit, split) = if needed <= usable && host == 0 {
        (Fit::Resident, Split { dense, dense_off: 0, experts, experts_off: 0 })
    } else if experts > 0 && fixed + dense + slots.max(one_layer) <= budget {
        let held = slots + (budget - fixed - dense - slots).min(experts - host);
        (Fit::Cached, Split { dense, dense_off: 0, experts: held, experts_off: experts - held })
    } else if least <= budget {
        // Two slots take what passes through; one token's experts of a layer have theirs.
        let (layer, _) = demand.largest_layer();
        let held = (budget - fixed - one_layer - 2 * layer).min(dense);
        let off = experts.saturating_sub(one_layer);
        (Fit::Streamed, Split { dense: held, dense_off: dense - held, experts: one_layer, experts_off: off })
    } else {
        (Fit::No, Split { dense: 0, dense_off: dense, experts: 0, experts_off: experts })
    };
    let cached_share = if experts == 0 { 1.0 } else { split.experts as f64 / experts as f64 };
    let (count, used) = demand.experts.iter().map(|l| (l.count, l.used)).max().unwrap_or((1, 1));
    // Of the layers whose experts are cached by their share, and of those that have slots for one token's.
    let beside = split.experts.saturating_sub(slots) as f64 / (experts - host).max(1) as f64;
    let (beside, on_host) =
        (routing.hit_rate(count, used, beside), routing.hit_rate(count, used, used as f64 / count as f64));
    let hit_rate = match fit {
        Fit::Streamed => 0.0,
        _ if experts == 0 => 1.0,
        _ => (beside * used_beside as f64 + on_host * slots as f64) / (used_beside + slots).max(1) as f64,
    };
    let backing = Backing::of(demand, machine, &split);
    let token = |kv: u64| backing.token(demand, machine, &split, hit_rate, kv as f64);
    let runs = fit != Fit::No;
    Plan {
        fit,
        needed,
        usable,
        least,
        places: places(demand, &split, &backing),
        cached_share,
        hit_rate,
        decode: if runs { token(0) } else { Bound::default() },
        decode_full: if runs { token(demand.kv_read) } else { Bound::default() },
        prefill: machine.flops.filter(|_| runs).map(|flops| backing.prefill(demand, machine, &split, flops)),
        on_host: (fit == Fit::Cached && !machine.unified && backing.disk_share == 0.0).then(|| {
            let missed = demand.used_bytes() as f64 * (1.0 - cached_share);
            1.0 / ((token(0).device_bytes - missed) / machine.stream + missed / machine.ram_stream)
        }),
    }
}

/// Where the weights come from that the device does not hold.
struct Backing {
    /// Bytes in the host's memory, and the share of reads that go to the disk.
    ram: u64,
    disk: u64,
    disk_share: f64,
}

impl Backing {
    /// The host's memory holds all routed experts if it can, those too that the device caches: they come and go.
    fn of(demand: &Demand, machine: &Machine, split: &Split) -> Backing {
        let off = split.dense_off + if split.experts_off > 0 { demand.expert_bytes() } else { 0 };
        let ram = off.min(machine.ram);
        Backing { ram, disk: off - ram, disk_share: if off == 0 { 0.0 } else { (off - ram) as f64 / off as f64 } }
    }

    fn token(&self, demand: &Demand, machine: &Machine, split: &Split, hit_rate: f64, kv: f64) -> Bound {
        let read_dense = demand.dense.iter().sum::<u64>() as f64;
        let dense_on = split.dense as f64 / demand.dense_bytes().max(1) as f64;
        let used = demand.used_bytes() as f64;
        // Of tables a token reads a row, but where they pass through all of them.
        let tables = if split.dense < demand.largest_layer().1 { demand.tables as f64 } else { 0.0 };
        let missed = (read_dense + tables) * (1.0 - dense_on) + used * (1.0 - hit_rate);
        // What crossed is read on the device, too.
        let device_bytes = read_dense + used + kv;
        let (link_bytes, disk_bytes) = (missed * (1.0 - self.disk_share), missed * self.disk_share);
        let seconds = device_bytes / machine.stream
            + link_bytes / machine.link.min(machine.ram_stream)
            + disk_bytes / machine.disk.min(machine.link);
        Bound { device_bytes, link_bytes, disk_bytes, seconds, tokens_per_second: 1.0 / seconds.max(1e-12) }
    }

    /// A chunk uses nearly all experts: each that is missing crosses once.
    fn prefill(&self, demand: &Demand, machine: &Machine, split: &Split, flops: f64) -> f64 {
        let off = (split.dense_off + split.experts_off) as f64;
        let (link, disk) = (off * (1.0 - self.disk_share), off * self.disk_share);
        let reading = (demand.dense_bytes() + demand.expert_bytes()) as f64 / machine.stream
            + link / machine.link.min(machine.ram_stream)
            + disk / machine.disk.min(machine.link);
        let computing = 2.0 * demand.active_parameters as f64 * CHUNK / flops;
        CHUNK / reading.max(computing)
    }
}

fn places(demand: &Demand, split: &Split, backing: &Backing) -> Vec<Place> {
    let all = split.experts_off == 0;
    let experts = if all { "routed experts" } else { "routed experts, cached" };
    let places = [
        ("dense weights", "device", split.dense),
        (experts, "device", split.experts),
        ("KV cache", "device", demand.kv),
        ("scratch", "device", demand.scratch),
        (if split.dense_off > 0 { "streamed weights" } else { "routed experts, all" }, "host memory", backing.ram),
        (if split.dense_off > 0 { "streamed weights" } else { "routed experts, all" }, "disk", backing.disk),
    ];
    let places = places.into_iter().map(|(what, at, bytes)| Place { what, at, bytes });
    places.filter(|p| p.bytes > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::super::ExpertLayer;
    use super::*;

    const GB: u64 = 1_000_000_000;

    /// 10 layers, each 0.1 GB dense and 100 experts of 0.01 GB, 5 used; 1 GB of cache and scratch.
    fn demand() -> Demand {
        Demand {
            dense: vec![GB / 10; 10],
            tables: 0,
            experts: (0..10).map(|layer| ExpertLayer { layer, count: 100, used: 5, bytes: GB / 100 }).collect(),
            kv: GB - GB / 10,
            kv_read: GB - GB / 10,
            scratch: GB / 10,
            context: 1000,
            active_parameters: GB,
            parameters: 20 * GB,
        }
    }

    /// With `budget` bytes of the device for what does not fit whole.
    fn machine(budget: u64, ram: u64) -> Machine {
        let device = (budget * MARGIN).div_ceil(MARGIN - 1);
        Machine {
            unified: false,
            device,
            stream: 100e9,
            ram,
            ram_stream: 50e9,
            link: 20e9,
            disk: 2e9,
            flops: Some(1e12),
        }
    }

    #[test]
    fn what_fits_is_resident_and_bound_by_its_bytes() {
        let plan = plan(&demand(), &machine(12 * GB, 0), Routing::Uniform, 0);
        assert_eq!((plan.fit, plan.needed, plan.hit_rate), (Fit::Resident, 12 * GB, 1.0));
        // 1 GB dense and 0.5 GB of experts at 100 GB/s.
        assert!((plan.decode.tokens_per_second - 100.0 / 1.5).abs() < 1e-6);
        assert!((plan.decode_full.seconds - 0.024).abs() < 1e-9);
        assert_eq!(plan.places.iter().map(|p| p.bytes).sum::<u64>(), plan.needed);
        assert!(plan.places.iter().all(|p| p.at == "device"));
        // 512 tokens compute 1.024 s; all 11 GB are read in 0.11 s.
        assert!((plan.prefill.unwrap() - 500.0).abs() < 1e-6);
    }

    #[test]
    fn experts_that_do_not_fit_are_cached_and_come_over_the_link() {
        let short = plan(&demand(), &machine(7 * GB, 64 * GB), Routing::Uniform, 0);
        assert!(short.fit == Fit::Cached && (short.cached_share - 0.5).abs() < 1e-9);
        // Half of 0.5 GB at 20 GB/s beside 1.5 GB at 100 GB/s.
        assert!((short.decode.seconds - (0.015 + 0.0125)).abs() < 1e-9);
        assert_eq!(short.decode.disk_bytes, 0.0);
        // On the host they would be read at 50 GB/s, and not on the device.
        assert!((1.0 / short.on_host.unwrap() - (0.0125 + 0.005)).abs() < 1e-9);
        let skewed = plan(&demand(), &machine(7 * GB, 64 * GB), Routing::Zipf(1.0), 0);
        assert!(skewed.hit_rate > 0.8 && skewed.decode.seconds < short.decode.seconds);
    }

    #[test]
    fn experts_that_are_to_live_on_the_host_have_slots_for_one_token() {
        let roomy = plan(&demand(), &machine(20 * GB, 64 * GB), Routing::Uniform, 4);
        // 4 of 10 layers hit 5 times of 100.
        assert!(roomy.fit == Fit::Cached && (roomy.hit_rate - (0.6 + 0.4 * 0.05)).abs() < 1e-9);
        assert!((roomy.decode.link_bytes - 0.5e9 * 0.38).abs() < 1.0);
        let device = roomy.places.iter().filter(|p| p.what == "routed experts, cached" && p.at == "device");
        assert_eq!(device.map(|p| p.bytes).sum::<u64>(), 6 * GB + 4 * GB / 20);
        let all = plan(&demand(), &machine(20 * GB, 64 * GB), Routing::Uniform, u32::MAX);
        assert!((all.hit_rate - 0.05).abs() < 1e-9);
        // Half of the other layers' experts.
        let tight = plan(&demand(), &machine(2 * GB + GB / 5 + 3 * GB, 64 * GB), Routing::Uniform, 4);
        assert!(
            tight.fit == Fit::Cached && (tight.hit_rate - (0.6 * 0.5 + 0.4 * 0.05)).abs() < 1e-6,
            "{}",
            tight.hit_rate
        );
    }

    #[test]
    fn what_the_hosts_memory_lacks_comes_from_the_disk() {
        let plan = plan(&demand(), &machine(7 * GB, 5 * GB), Routing::Uniform, 0);
        assert!((plan.decode.link_bytes - plan.decode.disk_bytes).abs() < 1.0);
        assert!((plan.decode.seconds - (0.015 + 0.125 / 20.0 + 0.125 / 2.0)).abs() < 1e-9);
        assert_eq!(plan.on_host, None);
    }

    #[test]
    fn below_the_dense_weights_layers_cross_for_every_token_and_below_the_least_nothing_runs() {
        let demand = demand();
        assert_eq!(demand.least(), GB + GB / 5 + GB / 20);
        let tight = plan(&demand, &machine(demand.least(), 64 * GB), Routing::Uniform, 0);
        assert!(tight.fit == Fit::Streamed && (tight.decode.link_bytes - 1.5e9).abs() < 10.0);
        let less = plan(&demand, &machine(demand.least() - 2, 64 * GB), Routing::Uniform, 0);
        assert_eq!((less.fit, less.decode.tokens_per_second), (Fit::No, 0.0));
    }

    #[test]
    fn a_cache_of_the_most_used_hits_more_often_than_its_share() {
        assert!((Routing::Uniform.hit_rate(10, 2, 0.3) - 0.3).abs() < 1e-12);
        let zipf = Routing::Zipf(1.0);
        // 1 + 1/2 + 1/3 of the tenth harmonic number.
        assert!((zipf.hit_rate(10, 1, 0.3) - (11.0 / 6.0) / 2.928_968_253_968).abs() < 1e-9);
        assert!((zipf.hit_rate(10, 1, 1.0) - 1.0).abs() < 1e-12);
        assert!((Routing::Zipf(0.0).hit_rate(10, 3, 0.35) - 0.35).abs() < 1e-12);
    }

    #[test]
    fn a_token_uses_an_expert_once() {
        let usage = Routing::Zipf(2.0).usage(10, 3);
        assert!(usage[0] == 1.0 && usage[1] <= 1.0 && (usage.iter().sum::<f64>() - 3.0).abs() < 1e-12);
        assert!((usage[4] / usage[8] - (9.0f64 / 5.0).powi(2)).abs() < 1e-9);
        assert!(Routing::Zipf(1.0).usage(4, 4).iter().all(|p| (p - 1.0).abs() < 1e-9));
    }
}
