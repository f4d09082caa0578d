//! What is printed: verdict, places, speeds.

use super::target::Target;
use crate::cli::human;
use crate::cli::output::Style;
use halogen::memory::{Bound, Fit, Placement, Plan, Routing};
use halogen::presets::Asked;
use serde_json::{Value, json};
use std::fmt::Write;

pub struct Report<'r> {
    pub name: &'r str,
    pub asked: &'r Asked,
    pub target: &'r Target,
    pub routing: Routing,
    pub plan: Plan,
    /// What comes and goes, as a load would place it, and what it costs a step.
    pub costs: Vec<(&'static str, String)>,
    pub placement: Option<Placement>,
    /// After the machine's usual setting.
    pub set: Option<Plan>,
}

impl Report<'_> {
    /// The better of the plans, and the setting that it needs.
    pub fn best(&self) -> (&Plan, Option<&str>) {
        let setting = self.target.set.as_ref().map(|(setting, _)| setting.as_str());
        match &self.set {
            Some(set) if set.decode.tokens_per_second > self.plan.decode.tokens_per_second => (set, setting),
            _ => (&self.plan, None),
        }
    }

    pub fn json(&self) -> Value {
        json!({
            "model": self.name,
            "runs": self.asked.runs,
            "demand": self.asked.demand,
            "machine": { "name": self.target.name, "title": self.target.title, "preset": self.target.json,
                "facts": self.target.facts.iter().map(|(name, fact)| (name.to_string(), json!(fact)))
                    .collect::<serde_json::Map<_, _>>(),
                "now": self.target.machine, "why": self.target.why,
                "set": self.target.set.as_ref().map(|(setting, machine)| json!({ "setting": setting, "machine": machine })) },
            "routing": self.routing,
            "plan": self.plan,
            "placement": self.placement,
            "plan_after_setting": self.set,
        })
    }

    pub fn text(&self, style: Style) -> String {
        let mut out = String::new();
        self.write(&mut out, style).expect("a string takes all");
        out
    }

    fn write(&self, out: &mut String, Style { bold, dim, reset }: Style) -> std::fmt::Result {
        let (demand, target) = (&self.asked.demand, self.target);
        let (plan, setting) = self.best();
        let weights = demand.dense_bytes() + demand.expert_bytes();
        let (parameters, active) = (human::billions(demand.parameters), human::billions(demand.active_parameters));
        writeln!(
            out,
            "{bold}{}{reset}  {} of weights, {parameters} parameters, {active} active",
            self.name,
            human::bytes(weights)
        )?;
        writeln!(out, "{bold}{}{reset}  {}", target.name, target.title)?;
        for (name, fact) in &target.facts {
            writeln!(out, "  {dim}{name:<9} {fact}{reset}")?;
        }
        if !self.asked.runs {
            writeln!(
                out,
                "  {dim}note      halogen does not run this architecture yet: cache and scratch are estimates{reset}"
            )?;
        }

        writeln!(out, "\n{bold}Memory{reset}")?;
        writeln!(
            out,
            "  needed    {:>9}  all on the device, {} tokens of context",
            human::bytes(plan.needed),
            demand.context
        )?;
        writeln!(out, "  usable    {:>9}  {}", human::bytes(self.plan.usable), target.why)?;
        if let (Some(set), Some((setting, _))) = (&self.set, &target.set) {
            writeln!(out, "            {:>9}  after: {setting}", human::bytes(set.usable))?;
        }
        writeln!(
            out,
            "  smallest  {:>9}  two dense layers, cache, scratch, one token's experts of a layer",
            human::bytes(plan.least)
        )?;
        writeln!(out, "  {bold}{}{reset}", self.verdict())?;
        if plan.fit == Fit::No {
            return Ok(());
        }

        let after = setting.map_or("", |_| ", after the setting");
        writeln!(out, "\n{bold}Placement{reset}{after}")?;
        for place in &plan.places {
            writeln!(out, "  {:<24}{:>9}  {}", place.what, human::bytes(place.bytes), place.at)?;
        }
        for (what, cost) in &self.costs {
            writeln!(out, "  {what:<9} {cost}")?;
        }
        writeln!(out, "\n{bold}Speed, at most{reset}{after}")?;
        self.speeds(out, plan)
    }

    fn verdict(&self) -> String {
        let (plan, setting) = self.best();
        let after = setting.map_or("", |_| " after the setting");
        match plan.fit {
            Fit::Resident => format!("fits{after}, with {} left", human::bytes(plan.usable - plan.needed)),
            Fit::Cached => format!(
                "fits in part{after}: the device caches {:.0} % of the routed experts",
                plan.cached_share * 100.0
            ),
            Fit::Streamed => {
                let passing = plan.places.iter().filter(|p| p.what == "streamed weights").map(|p| p.bytes).sum();
                let (passing, experts) = (human::bytes(passing), !self.asked.demand.experts.is_empty());
                let what = if experts { "dense layers and experts" } else { "dense layers" };
                format!("fits in part{after}: {passing} of {what} cross for every step")
            }
            Fit::No => format!("does not run: the device must hold {}", human::bytes(plan.least)),
        }
    }

    fn speeds(&self, out: &mut String, plan: &Plan) -> std::fmt::Result {
        let rate = |rate: f64| format!("{:>9} t/s", human::short(rate));
        let Bound { device_bytes, link_bytes, disk_bytes, tokens_per_second, .. } = plan.decode;
        let reads = |name: &str, bytes: f64| match bytes {
            0.0 => String::new(),
            bytes => format!(", {} {name}", human::bytes(bytes as u64)),
        };
        let crossing = reads("over the link", link_bytes) + &reads("from the disk", disk_bytes);
        writeln!(
            out,
            "  decode    {}  a token reads {} on the device{crossing}",
            rate(tokens_per_second),
            human::bytes(device_bytes as u64)
        )?;
        let full = self.asked.demand.context;
        writeln!(out, "            {}  with {full} tokens cached", rate(plan.decode_full.tokens_per_second))?;
        match plan.prefill {
            Some(prefill) => {
                writeln!(out, "  prefill   {}  chunks of 512 tokens, at the matrix rate or the bytes'", rate(prefill))?
            }
            None => writeln!(out, "  prefill           ?      the matrix rate is not known")?,
        }
        if plan.fit == Fit::Cached {
            let routing = match self.routing {
                Routing::Uniform => "all experts used alike".into(),
                Routing::Zipf(s) => format!("experts used as 1 / rank^{s}"),
            };
            writeln!(out, "  hits      {:>9.0} %    {routing}", plan.hit_rate * 100.0)?;
        }
        if let Some(on_host) = plan.on_host {
            let machine = self.target.machine;
            let even = 1.0 - (1.0 - plan.cached_share) * machine.link.min(machine.ram_stream) / machine.ram_stream;
            let even = (even * 100.0).clamp(0.0, 100.0);
            writeln!(
                out,
                "  on host   {}  were missing experts computed by the host; hits from {even:.0} % on win",
                rate(on_host)
            )?;
        }
        Ok(())
    }
}
