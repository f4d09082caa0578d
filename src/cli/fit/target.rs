//! The machine that is asked about: a preset, or this one as its driver, its system and a measurement say.

use crate::cli::device::DeviceArgs;
use crate::cli::{human, profile};
use anyhow::{Result, bail};
use halogen::gpu::{Gpu, Heap};
use halogen::memory::{Machine, System, available_among, available_bytes};
use halogen::presets::MachinePreset;
use serde_json::{Value, json};
use wgpu::{Backend, DeviceType};

pub struct Target {
    pub name: String,
    pub title: String,
    /// As it comes, or as it is now.
    pub machine: Machine,
    /// Why the device may use so much.
    pub why: String,
    /// On which layers lie.
    pub devices: u64,
    /// A setting, and the machine after it.
    pub set: Option<(String, Machine)>,
    /// What driver and system report, by name; of a preset, what its figures rest on.
    pub facts: Vec<(&'static str, String)>,
    /// The same, complete.
    pub json: Value,
}

/// Rates of a discrete device's host, which nothing here measures.
const ASSUMED_LINK: f64 = 12e9;
const ASSUMED_RAM: f64 = 40e9;
const ASSUMED_DISK: f64 = 2e9;
/// Of the host's memory, for other programs.
const OTHERS: u64 = 2 << 30;

impl Target {
    pub fn preset(name: &str) -> Result<Target> {
        Ok(Target::of_preset(MachinePreset::named(name)?))
    }

    pub fn of_preset(preset: &MachinePreset) -> Target {
        let sold = if preset.sold { "" } else { "; not sold" };
        Target {
            name: preset.name.clone(),
            title: format!("{}{sold}", preset.title),
            machine: preset.machine(false),
            why: preset.default.clone(),
            devices: 1,
            set: preset.setting.clone().map(|setting| (setting, preset.machine(true))),
            facts: vec![("source", preset.source.clone())],
            json: serde_json::to_value(preset).expect("plain data"),
        }
    }

    /// This machine.
    ///
    /// # Errors
    /// A device that cannot be measured, or of whose memory nothing is known.
    pub fn here(device: &DeviceArgs) -> Result<Target> {
        let gpus = device.open_all()?;
        let each = gpus.iter().map(Target::of_gpu).collect::<Result<Vec<Target>>>()?;
        if gpus.len() > 1 { Ok(Target::together(&gpus, each)) } else { Ok(each.into_iter().next().expect("a device")) }
    }

    /// Several devices, on which layers lie by memory: one waits for the other, so a byte takes the mean of their times.
    fn together(gpus: &[Gpu], mut each: Vec<Target>) -> Target {
        let memory: Vec<u64> = (0..gpus.len()).map(|i| available_among(gpus, i).unwrap_or(0)).collect();
        let all: u64 = memory.iter().sum();
        let mean = |rate: &dyn Fn(&Machine) -> f64| {
            let times = memory.iter().zip(&each).map(|(bytes, target)| *bytes as f64 / rate(&target.machine).max(1.0));
            all as f64 / times.sum::<f64>()
        };
        let (stream, flops) = (mean(&|m| m.stream), mean(&|m| m.flops.unwrap_or(0.0)));
        let title = each.iter().map(|target| target.title.as_str()).collect::<Vec<_>>().join(" and ");
        let json = json!({ "devices": each.iter().map(|target| &target.json).collect::<Vec<_>>() });
        // What crosses a link does so to those that have one.
        let base = each.iter().position(|target| !target.machine.unified).unwrap_or(0);
        let base = each.swap_remove(base);
        let machine = Machine { device: all, stream, flops: Some(flops), ..base.machine };
        let why = format!("layers lie on {} devices, by their memory", gpus.len());
        Target { title, machine, why, devices: gpus.len() as u64, json, ..base }
    }

    fn of_gpu(gpu: &Gpu) -> Result<Target> {
        let limits = profile::of(gpu, false)?;
        let (info, system) = (gpu.info(), System::read());
        let unified = matches!(info.device_type, DeviceType::Cpu | DeviceType::IntegratedGpu);
        let Some(usable) = available_bytes(info.device_type, gpu.heaps()) else {
            bail!("{}: neither the driver nor the system says how much memory it has", info.name)
        };
        let ram = if unified { 0 } else { system.available.unwrap_or(0).saturating_sub(OTHERS) };
        let stream = limits.stream_bytes_per_second;
        let flops = limits.f16_flops_per_second.unwrap_or(0.0).max(limits.flops_per_second);
        let (link, ram_stream) = if unified { (stream, stream) } else { (ASSUMED_LINK, ASSUMED_RAM) };
        let machine =
            Machine { unified, device: usable, stream, ram, ram_stream, link, disk: ASSUMED_DISK, flops: Some(flops) };
        let mut facts = vec![("driver", reported(gpu.heaps())), ("system", found(&system))];
        let measured = format!("reads {}, {}FLOP/s", human::rate(stream), human::si(flops));
        facts.push(("measured", measured));
        let others = if unified { String::new() } else { format!("link {}, ", human::rate(ASSUMED_LINK)) };
        facts.push(("assumed", format!("{others}disk {}; --link and --disk say otherwise", human::rate(ASSUMED_DISK))));
        Ok(Target {
            name: "this machine".into(),
            title: info.name.clone(),
            machine,
            why: why(gpu, &system),
            devices: 1,
            set: None,
            facts,
            json: json!({ "device": info.name, "heaps": gpu.heaps(), "system": system, "limits": limits }),
        })
    }

    /// `--gpu-memory`: what may be used of each device.
    pub fn limit(&mut self, budget: Option<u64>) {
        if let Some(budget) = budget {
            (self.machine.device, self.why, self.set) =
                (budget.saturating_mul(self.devices), "--gpu-memory".into(), None);
        }
    }

    /// `--experts disk`: the host's memory keeps nothing.
    pub fn read_files(&mut self) {
        self.machine.ram = 0;
        self.set.iter_mut().for_each(|(_, machine)| machine.ram = 0);
    }

    /// Takes what the command line says instead.
    pub fn change(&mut self, ram: Option<f64>, link: Option<f64>, disk: Option<f64>) -> Result<()> {
        let machines = std::iter::once(&mut self.machine).chain(self.set.as_mut().map(|(_, machine)| machine));
        for machine in machines {
            if machine.unified && (ram.is_some() || link.is_some()) {
                bail!("{}: the device computes on the host's memory: there is neither --ram nor --link", self.name);
            }
            machine.ram = ram.map_or(machine.ram, |gb| ((gb * 1e9) as u64).saturating_sub(OTHERS));
            machine.link = link.map_or(machine.link, |rate| rate * 1e9);
            machine.disk = disk.map_or(machine.disk, |rate| rate * 1e9);
        }
        Ok(())
    }
}

fn reported(heaps: &[Heap]) -> String {
    let heap = |h: &Heap| format!("{}{}", human::binary(h.bytes), if h.device_local { "" } else { " of the host" });
    let all = heaps.iter().map(heap).collect::<Vec<_>>().join(", ");
    if all.is_empty() { "does not say".into() } else { format!("heaps of {all}") }
}

fn found(system: &System) -> String {
    let parts = [("of the host", system.total), ("free", system.available), ("VRAM", system.vram), ("GTT", system.gtt)];
    let known = parts.iter().filter_map(|(name, bytes)| Some(format!("{} {name}", human::binary((*bytes)?))));
    let all = known.collect::<Vec<_>>().join(", ");
    if all.is_empty() { "does not say".into() } else { all }
}

/// Where [`available_bytes`] took its number from.
fn why(gpu: &Gpu, system: &System) -> String {
    let info = gpu.info();
    let shared = match (info.device_type, info.backend) {
        (DeviceType::Cpu, _) => "what is free of the host's memory: the device is software",
        (DeviceType::IntegratedGpu, Backend::Vulkan) if system.gtt.is_some() => {
            "VRAM and what is free, at most VRAM and GTT; RADV's heap is two thirds of these, and not enforced"
        }
        (DeviceType::IntegratedGpu, Backend::Metal) => "what Metal recommends",
        (DeviceType::IntegratedGpu, _) if system.available.is_some() => "what is free of the host's memory",
        (DeviceType::IntegratedGpu, _) => "the largest heap of the device's own: Windows splits the memory into heaps",
        _ => "the largest heap of the device's own",
    };
    shared.into()
}
