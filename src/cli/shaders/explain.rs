//! `halogen shaders --explain`: in which arithmetic products are computed on this device, and why.

use crate::cli::device::DeviceArgs;
use crate::cli::{output, profile, success};
use anyhow::Result;
use halogen::formats::Format;
use halogen::ops::{Choice, Ground, Product};
use serde_json::{Value, json};
use std::process::ExitCode;

pub fn run(shape: [usize; 2], device: &DeviceArgs, json: bool) -> Result<ExitCode> {
    let gpu = device.open()?;
    let tier = device.tier.unwrap_or(gpu.caps().tier);
    let ground = Ground { tier, profile: Some(profile::of(&gpu, false)?), force: None };
    let row = |format: Format| Product::ALL.map(|product| ground.choose(product, format, shape));
    if json {
        let cell = |product: Product, c: Choice| json!({"product": product.to_string(), "arithmetic": c.arithmetic.to_string(), "reason": c.reason});
        let rows = Format::ALL.iter().map(|&format| {
            let cells: Vec<Value> = Product::ALL.into_iter().zip(row(format)).map(|(p, c)| cell(p, c)).collect();
            json!({"format": format.name(), "products": cells})
        });
        let all = json!({"device": gpu.info().name, "tier": tier.to_string(), "shape": shape, "formats": rows.collect::<Vec<_>>()});
        output::print_json(&all)?;
        return success();
    }
    let [rows, columns] = shape;
    output::print(format_args!("{}, tier {tier}, a matrix of {rows} x {columns}\n\n{:<9}", gpu.info().name, ""))?;
    output::print(format_args!("{}\n", Product::ALL.map(|p| format!("{p:<10}")).concat().trim_end()))?;
    // Reasons in the order in which they come up, numbered.
    let mut reasons: Vec<String> = Vec::new();
    for &format in Format::ALL {
        let cells = row(format).map(|choice| {
            let known = reasons.iter().position(|r| *r == choice.reason);
            let number = known.unwrap_or_else(|| {
                reasons.push(choice.reason);
                reasons.len() - 1
            });
            format!("{:<10}", format!("{} ({})", choice.arithmetic, number + 1))
        });
        output::print(format_args!("{:<9}{}\n", format.name(), cells.concat().trim_end()))?;
    }
    output::print(format_args!("\n"))?;
    for (i, reason) in reasons.iter().enumerate() {
        output::print(format_args!("({}) {reason}\n", i + 1))?;
    }
    success()
}
