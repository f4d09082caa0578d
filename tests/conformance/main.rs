//! Every kernel against its twin (`halogen::ops::twins`), through the operators that record it.
//!
//! A test is a case in a setup: a tier of kernel variants, and a row of the tuning table, since the tiles of a GPU run
//! on a software device too. Every adapter of the machine runs all of them, with its number behind their names where there
//! are several; HALOGEN_ADAPTER picks one by number or name. `cargo test --test conformance -- linear/q4_k` runs a part;
//! HALOGEN_FULL=1 runs every case in every setup; HALOGEN_DAWN, a folder of node's modules (scripts/dawn-check.sh), has
//! Dawn execute the kernels.

mod attention;
mod cache;
mod compressed;
mod dawn;
mod delta_net;
mod every;
mod experts;
mod heads;
mod hyper;
mod index;
mod latent;
mod leak;
mod linear;
mod lookup;
mod published;
mod refused;
mod rig;
mod rows;
mod sampling;

use dawn::Dawn;
use halogen::gpu::{DeviceClass, Gpu, Selector, Tier, adapters};
use halogen::ops::Arithmetic;
use libtest_mimic::{Arguments, Failed, Trial};
use rig::{Case, Setup};
use std::sync::{Arc, Mutex};

type Kind = (&'static str, Tier, DeviceClass, Option<Arithmetic>);

const SETUPS: [Kind; 4] = [
    ("core", Tier::Core, DeviceClass::Cpu, None),
    ("subgroup", Tier::Subgroup, DeviceClass::Gpu, None),
    ("core/gpu-tiles", Tier::Core, DeviceClass::Gpu, None),
    ("subgroup/cpu-tiles", Tier::Subgroup, DeviceClass::Cpu, None),
];
/// Of cases whose matrix products have the arithmetic.
const PRODUCTS: [Kind; 6] = [
    ("f16", Tier::F16, DeviceClass::Cpu, Some(Arithmetic::F16)),
    ("f16/gpu-tiles", Tier::F16, DeviceClass::Gpu, Some(Arithmetic::F16)),
    ("dot", Tier::Dot, DeviceClass::Gpu, Some(Arithmetic::Dot)),
    ("dot/cpu-tiles", Tier::Dot, DeviceClass::Cpu, Some(Arithmetic::Dot)),
    ("matrix", Tier::Matrix, DeviceClass::Gpu, Some(Arithmetic::Matrix)),
    ("matrix/cpu-tiles", Tier::Matrix, DeviceClass::Cpu, Some(Arithmetic::Matrix)),
];

fn main() {
    let arguments = Arguments::from_args();
    let dawn = std::env::var("HALOGEN_DAWN").ok().map(|modules| Dawn::start(&modules).map(Arc::new));
    let dawn = dawn.transpose().expect("Dawn");
    let mut devices = open();
    if dawn.is_some() {
        // Dawn takes an adapter by itself, the same for each of ours.
        devices.truncate(1);
    }
    let full = std::env::var_os("HALOGEN_FULL").is_some();
    let mut cases = Vec::new();
    for add in [
        linear::cases,
        rows::cases,
        heads::cases,
        hyper::cases,
        attention::cases,
        compressed::cases,
        delta_net::cases,
        latent::cases,
        index::cases,
        experts::cases,
        lookup::cases,
        leak::cases,
        sampling::cases,
        every::cases,
        refused::cases,
        published::cases,
    ] {
        add(&mut cases);
    }
    let mut trials = Vec::new();
    for (i, case) in cases.into_iter().map(Arc::new).enumerate() {
        // The spread: half of the setups a case, by a hash of its number.
        let half = (i as u32).wrapping_mul(0x9e37_79b9) as usize >> 31;
        for setups in [&SETUPS[..], &PRODUCTS] {
            let chosen = setups.iter().enumerate().filter(|(j, _)| full || j % 2 == half);
            // What no product of the case has a kernel for would run that of f32 again.
            let chosen = chosen.filter(|(_, (.., force))| force.is_none_or(|arithmetic| case.takes(arithmetic)));
            for (_, setup) in chosen {
                trials.extend(devices.iter().map(|device| trial(&case, *setup, device, &dawn)));
            }
        }
    }
    libtest_mimic::run(&arguments, trials).exit()
}

/// An adapter that cases run on, or why it cannot be had.
struct Device {
    /// What follows the names of its tests, where there are several.
    suffix: String,
    adapter: Result<(Selector, Gpu), String>,
}

/// The device that HALOGEN_ADAPTER picks, else every usable one.
fn open() -> Vec<Device> {
    let device = |suffix, selector: Selector| {
        let gpu = pollster::block_on(Gpu::new(selector.clone())).map_err(|e| e.to_string());
        Device { suffix, adapter: gpu.map(|gpu| (selector, gpu)) }
    };
    if let Ok(wanted) = std::env::var("HALOGEN_ADAPTER") {
        return vec![device(String::new(), Selector::from(wanted.as_str()))];
    }
    let reports = pollster::block_on(adapters());
    let usable: Vec<usize> = (0..reports.len()).filter(|i| reports[*i].unusable.is_none()).collect();
    match usable[..] {
        [] => vec![Device { suffix: String::new(), adapter: Err("no usable adapter".into()) }],
        [only] => vec![device(String::new(), Selector::Index(only))],
        _ => usable.into_iter().map(|i| device(format!("@{i}"), Selector::Index(i))).collect(),
    }
}

/// Devices that no test runs on. Tests that run beside each other have devices of their own: a software device compiles kernels on
/// the one thread of its queue.
static IDLE: Mutex<Vec<(Selector, Gpu)>> = Mutex::new(Vec::new());

/// Runs a case on a device of an adapter that could be opened.
fn on_idle(selector: &Selector, run: impl FnOnce(Gpu) -> Result<(), String>) -> Result<(), String> {
    let idle = || IDLE.lock().expect("nothing panics that holds it");
    let found = {
        let mut idle = idle();
        idle.iter().position(|(known, _)| known == selector).map(|at| idle.swap_remove(at).1)
    };
    let open = || pollster::block_on(Gpu::new(selector.clone())).map_err(|e| e.to_string());
    let gpu = found.map_or_else(open, Ok)?;
    let result = run(gpu.clone());
    idle().push((selector.clone(), gpu));
    result
}

fn trial(case: &Arc<Case>, (name, tier, class, force): Kind, device: &Device, dawn: &Option<Arc<Dawn>>) -> Trial {
    let name = format!("{}/{name}{}", case.name, device.suffix);
    let able = |(selector, gpu): &(Selector, Gpu)| gpu.require(tier).map(|()| selector.clone());
    match device.adapter.as_ref().map_err(String::clone).and_then(|adapter| able(adapter).map_err(|e| e.to_string())) {
        Ok(selector) => {
            let (case, dawn) = (case.clone(), dawn.clone());
            let run = move |gpu| (case.run)(&Setup { gpu, tier, class, force, dawn });
            Trial::test(name, move || on_idle(&selector, run).map_err(Failed::from))
        }
        Err(why) => Trial::test(name, || Ok(())).with_kind(why).with_ignored_flag(true),
    }
}
