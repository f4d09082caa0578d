//! `halogen fit --matrix`: all presets on all machines.

use super::Args;
use super::target::Target;
use crate::cli::like::Like;
use crate::cli::{human, output};
use anyhow::{Result, bail};
use halogen::memory::{Fit, KvFormat, Plan, Routing, plan};
use halogen::presets::{asked, machines, models};
use serde_json::{Value, json};

const LEGEND: &str = "\
Tokens a second at most, from the bytes that a token reads; nothing cached. Plain: all on the device. *: after the usual
setting. c: experts come over the link, d: from the disk, too. s: dense weights cross for every token. -: does not run.
";

pub fn print(args: &Args) -> Result<()> {
    if args.cache.format()? != KvFormat::F16 {
        bail!("--matrix is of f16 caches: not all models keep their keys in q8_0");
    }
    let mut targets: Vec<Target> = machines().iter().map(Target::of_preset).collect();
    for target in &mut targets {
        let host = |value| if target.machine.unified { None } else { value };
        target.change(host(args.ram), host(args.link), args.disk)?;
    }
    let letter = |i: usize| char::from(b'A' + i as u8);
    let mut text: String =
        targets.iter().enumerate().map(|(i, t)| format!("{}  {:<15} {}\n", letter(i), t.name, t.title)).collect();
    let heads: String = (0..targets.len()).map(|i| format!("{:>7}", letter(i))).collect();
    text += &format!("\n{:<32}{:>9}{heads}\n", "", "weights");
    let (mut cells, routing) = (Vec::new(), args.like.routing.unwrap_or_default());
    let on_host = args.placement.on_host();
    for preset in models() {
        let like = Like { preset, mixture: preset.format() };
        let gguf = like.synthetic(preset.layers(), 1, Routing::Uniform)?.gguf()?;
        let asked = asked(&gguf, args.context.map(|c| c as usize), KvFormat::F16)?;
        let weights = asked.demand.dense_bytes() + asked.demand.expert_bytes();
        text += &format!("{:<32}{:>9}", format!("{}:{}", preset.name, like.mixture), human::bytes(weights));
        for target in &targets {
            let now = plan(&asked.demand, &target.machine, routing, on_host);
            let set = target.set.as_ref().map(|(_, machine)| plan(&asked.demand, machine, routing, on_host));
            text += &format!("{:>7}", cell(&now, set.as_ref()));
            cells.push(json_cell(&preset.name, &like.mixture.to_string(), target, &now, set.as_ref()));
        }
        text += "\n";
    }
    if args.json {
        return output::print_json(&cells);
    }
    Ok(output::print(format_args!("{text}\n{LEGEND}"))?)
}

fn cell(now: &Plan, set: Option<&Plan>) -> String {
    let better = set.filter(|set| set.decode.tokens_per_second > now.decode.tokens_per_second);
    let plan = better.unwrap_or(now);
    let mark = match plan.fit {
        Fit::No => return "-".into(),
        Fit::Streamed => "s",
        Fit::Cached if plan.decode.disk_bytes > 0.0 => "d",
        Fit::Cached => "c",
        Fit::Resident => "",
    };
    format!("{}{mark}{}", human::short(plan.decode.tokens_per_second), if better.is_some() { "*" } else { "" })
}

fn json_cell(model: &str, format: &str, target: &Target, now: &Plan, set: Option<&Plan>) -> Value {
    json!({ "model": model, "format": format, "machine": target.name, "plan": now, "plan_after_setting": set })
}
