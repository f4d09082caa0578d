//! `halogen devices`: every adapter, what it has, what it lacks, what it reaches.

use super::output::Style;
use super::{human, output, profile, success};
use anyhow::Result;
use halogen::gpu::{AdapterReport, DeviceProfile, Gpu, Selector, Tier, adapters};
use halogen::memory::available_bytes;
use serde_json::{Value, json};
use std::fmt::Write;
use std::io;
use std::process::ExitCode;
use wgpu::DeviceType;

/// List the adapters of this machine, what they have and what they reach
#[derive(clap::Args)]
pub struct Args {
    /// Measure again, instead of showing what was measured once
    #[arg(long)]
    remeasure: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// An adapter, and what was measured of it or why that failed.
struct Device {
    number: usize,
    report: AdapterReport,
    profile: Result<DeviceProfile, String>,
}

pub fn run(args: Args) -> Result<ExitCode> {
    let reports = pollster::block_on(adapters());
    if reports.is_empty() {
        return Err(halogen::gpu::Error::NoAdapter.into());
    }
    let measured = reports.into_iter().enumerate().map(|(number, report)| {
        let profile = match &report.unusable {
            Some(reason) => Err(reason.clone()),
            None => measure(number, args.remeasure).map_err(|e| e.to_string()),
        };
        Device { number, report, profile }
    });
    if args.json {
        output::print_json(&measured.map(|device| device.json()).collect::<Vec<_>>())?;
        return success();
    }
    let style = Style::of(&io::stdout());
    for device in measured {
        output::print(format_args!("{}", device.text(style)))?;
    }
    success()
}

fn measure(number: usize, remeasure: bool) -> Result<DeviceProfile> {
    let gpu = pollster::block_on(Gpu::new(Selector::Index(number)))?;
    profile::of(&gpu, remeasure)
}

fn kind(device_type: DeviceType) -> &'static str {
    match device_type {
        DeviceType::DiscreteGpu => "discrete GPU",
        DeviceType::IntegratedGpu => "integrated GPU",
        DeviceType::VirtualGpu => "virtual GPU",
        DeviceType::Cpu => "software device",
        DeviceType::Other => "device of unknown kind",
    }
}

/// Whether the device computes on the host's own memory, where that is known.
fn unified(device_type: DeviceType) -> Option<bool> {
    match device_type {
        DeviceType::Cpu | DeviceType::IntegratedGpu => Some(true),
        DeviceType::DiscreteGpu => Some(false),
        DeviceType::VirtualGpu | DeviceType::Other => None,
    }
}

impl Device {
    fn tiers(&self) -> Vec<String> {
        Tier::ALL.into_iter().filter(|t| *t <= self.report.caps.tier).map(|t| t.to_string()).collect()
    }

    /// The next tier and the features that it needs.
    fn next_tier(&self) -> Option<(Tier, &[&'static str])> {
        let next = self.report.missing.iter().find(|(tier, _)| *tier > self.report.caps.tier);
        next.map(|(tier, lacks)| (*tier, lacks.as_slice()))
    }

    fn memory(&self) -> String {
        let device_type = self.report.info.device_type;
        let available = available_bytes(device_type, &self.report.heaps);
        let available =
            available.map_or("how much is unknown".into(), |bytes| format!("{} to use", human::bytes(bytes)));
        let whose = match unified(device_type) {
            Some(true) => "shared with the host",
            Some(false) => "its own",
            None => "the host's or its own",
        };
        let heaps = self.report.heaps.iter().map(|heap| {
            let kind = if heap.device_local { "" } else { " of the host" };
            format!("{}{kind}", human::binary(heap.bytes))
        });
        let heaps = heaps.collect::<Vec<_>>().join(", ");
        let heaps = if heaps.is_empty() { "the driver does not say".into() } else { heaps };
        format!("{whose}, {available}; heaps: {heaps}")
    }

    fn limits(&self) -> String {
        let (caps, limits) = (&self.report.caps, &self.report.limits);
        let subgroup = match caps.subgroup {
            (0, _) => "none".to_string(),
            (least, most) if least == most => least.to_string(),
            (least, most) => format!("{least} to {most}"),
        };
        format!(
            "binding {}, buffer {}, workgroup {} invocations and {}, subgroup {subgroup}",
            human::binary(caps.max_binding),
            human::binary(caps.max_buffer),
            limits.max_compute_invocations_per_workgroup,
            human::binary(u64::from(limits.max_compute_workgroup_storage_size)),
        )
    }

    fn text(&self, style: Style) -> String {
        let info = &self.report.info;
        let mut out = format!("{}{}  {}{}\n", style.bold, self.number, info.name, style.reset);
        let mut line = |name: &str, what: &str| writeln!(out, "   {name:<10}{what}").expect("a string takes all");
        let driver = format!("{} {}", info.driver, info.driver_info);
        line("kind", &format!("{}, {}, driver {}", kind(info.device_type), backend(info.backend), driver.trim()));
        line("memory", &self.memory());
        line("limits", &self.limits());
        line("tiers", &self.tiers().join(", "));
        if let Some((tier, lacks)) = self.next_tier() {
            line("next tier", &format!("{tier}, which needs {}", lacks.join(", ")));
        }
        match &self.profile {
            Ok(profile) => {
                let rate = human::rate(profile.stream_bytes_per_second);
                let dispatch = human::seconds(profile.dispatch_seconds);
                line("measured", &format!("reads {rate}; a dependent dispatch costs {dispatch}"));
            }
            Err(reason) => line("unusable", reason),
        }
        out
    }

    fn json(&self) -> Value {
        let (info, caps, limits) = (&self.report.info, &self.report.caps, &self.report.limits);
        json!({
            "number": self.number,
            "name": info.name,
            "kind": kind(info.device_type),
            "backend": info.backend.to_string(),
            "driver": info.driver,
            "driver_info": info.driver_info,
            "memory": {
                "unified": unified(info.device_type),
                "available_bytes": available_bytes(info.device_type, &self.report.heaps),
                "heaps": self.report.heaps,
            },
            "limits": {
                "binding_bytes": caps.max_binding,
                "buffer_bytes": caps.max_buffer,
                "workgroup_invocations": limits.max_compute_invocations_per_workgroup,
                "workgroup_bytes": limits.max_compute_workgroup_storage_size,
                "subgroup_least": caps.subgroup.0,
                "subgroup_most": caps.subgroup.1,
            },
            "tiers": self.tiers(),
            "next_tier": self.next_tier().map(|(tier, lacks)| json!({ "tier": tier.to_string(), "missing": lacks })),
            "profile": self.profile.as_ref().ok(),
            "unusable": self.profile.as_ref().err(),
        })
    }
}

fn backend(backend: wgpu::Backend) -> &'static str {
    match backend {
        wgpu::Backend::Vulkan => "Vulkan",
        wgpu::Backend::Metal => "Metal",
        wgpu::Backend::Dx12 => "DX12",
        wgpu::Backend::Gl => "OpenGL",
        wgpu::Backend::BrowserWebGpu => "WebGPU",
        wgpu::Backend::Noop => "no backend",
    }
}
