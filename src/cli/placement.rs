//! Where weights are to lie, as llama.cpp's users say it.

use super::{human, output};
use anyhow::{Result, bail};
use halogen::gguf::Gguf;
use halogen::memory::{Backing, DenseMemory, ExpertMemory, Placement, PlacementOptions, expert_layers};

#[derive(Clone, Debug, Default, clap::Args)]
pub struct PlacementArgs {
    /// Where experts are kept that are not on the device: host memory, filled once, or the file; auto: the host if it has room;
    /// in-place: host memory, where the device reads them and nothing comes and goes
    #[arg(long, value_name = "host|disk|auto|in-place", default_value = "auto", value_parser = backing)]
    experts: Backing,

    /// Keep the experts of the first N layers in host memory; also -ncmoe
    #[arg(long, value_name = "N")]
    n_cpu_moe: Option<u32>,

    /// Keep the experts of all layers in host memory; also -cmoe
    #[arg(long, conflicts_with = "n_cpu_moe")]
    cpu_moe: bool,

    /// The same, as llama.cpp's `exps=CPU`; no other pattern is taken; also -ot
    #[arg(long, value_name = "PATTERN=BUFFER", value_parser = override_tensor)]
    override_tensor: Vec<String>,

    /// Taken for llama.cpp's sake: all layers are computed on the GPU, --gpu-memory says how much of it; also -ngl
    #[arg(long, value_name = "N", value_parser = gpu_layers)]
    n_gpu_layers: Option<u32>,
}

fn backing(text: &str) -> Result<Backing, String> {
    match text {
        "host" => Ok(Backing::Host),
        "disk" => Ok(Backing::Disk),
        "auto" => Ok(Backing::Auto),
        "in-place" => Ok(Backing::InPlace),
        _ => Err("host, disk, auto or in-place".into()),
    }
}

/// What people write for all routed experts.
const EXPERTS: [&str; 5] = ["exps=CPU", "exps.=CPU", ".ffn_.*_exps.=CPU", r"\.ffn_.*_exps\.=CPU", ".*exps.*=CPU"];

fn override_tensor(text: &str) -> Result<String, String> {
    match EXPERTS.contains(&text) {
        true => Ok(text.into()),
        false => Err(format!(
            "`{text}` is not known here: exps=CPU keeps experts in host memory, --gpu-memory limits all the rest"
        )),
    }
}

fn gpu_layers(text: &str) -> Result<u32, String> {
    match text {
        "all" | "auto" => Ok(u32::MAX),
        number => number.parse().map_err(|_| "a number of layers, all or auto".into()),
    }
}

impl PlacementArgs {
    pub fn backing(&self) -> Backing {
        if self.on_host() > 0 && self.experts == Backing::Auto { Backing::Host } else { self.experts }
    }

    /// Layers whose experts are to live in host memory.
    pub fn on_host(&self) -> u32 {
        if self.cpu_moe || !self.override_tensor.is_empty() { u32::MAX } else { self.n_cpu_moe.unwrap_or(0) }
    }

    pub fn options(&self, budget: Option<u64>) -> PlacementOptions {
        PlacementOptions { budget, experts_on_host: self.on_host() }
    }

    /// Says what of llama.cpp's options means something else here.
    ///
    /// # Errors
    /// Experts that are to live in host memory and in the file.
    pub fn explain(&self, gguf: &Gguf) -> Result<()> {
        let layers = gguf.metadata().u64(&format!("{}.block_count", gguf.architecture()?))?.unwrap_or(0);
        if self.on_host() > 0 {
            if self.experts == Backing::Disk {
                bail!("--experts disk: -ncmoe, -cmoe and -ot ask for host memory");
            }
            let which = match u64::from(self.on_host()) >= layers {
                true => "all layers".into(),
                false => format!("the first {} layers", self.on_host()),
            };
            output::note(format_args!(
                "note: the experts of {which} live in host memory; they are computed on the GPU all the same"
            ));
        }
        if self.n_gpu_layers.is_some_and(|n| u64::from(n) < layers) {
            output::note(format_args!(
                "note: -ngl: all {layers} layers are computed on the GPU; of what does not fit, --gpu-memory says how much stays"
            ));
        }
        Ok(())
    }
}

/// What comes and goes, by a word each, and what it costs a step.
pub fn costs(gguf: &Gguf, placement: &Placement) -> Vec<(&'static str, String)> {
    let mut said = Vec::new();
    if let Some(memory @ ExpertMemory { bytes, all, shared, .. }) = placement.experts {
        let layers = expert_layers(gguf);
        let slots = layers.iter().map(|(layer, count)| memory.slots(*layer, *count));
        let slots = match shared {
            Some(slot) => format!("{} of {} for all layers", slots.max().unwrap_or(0), human::bytes(slot)),
            None => format!("{} for the experts of {} layers", slots.sum::<usize>(), layers.len()),
        };
        let (some, all) = (human::bytes(bytes), human::bytes(all));
        said.push(("slots", format!("{slots}, {some} of {all}; {} lookups a step more", layers.len())));
    }
    if let Some(DenseMemory { layers, streamed, slot, pieces, bytes, .. }) = placement.dense {
        let ends = match pieces {
            0 => String::new(),
            pieces => format!(", the embedding and the output matrix in {pieces} pieces, a dispatch each,"),
        };
        let (slot, bytes) = (human::bytes(slot), human::bytes(bytes));
        said.push((
            "passing",
            format!("{streamed} of {layers} layers{ends} through two slots of {slot}: {bytes} a step"),
        ));
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_other_than_all_experts_are_refused_by_name() {
        assert!(override_tensor("exps=CPU").is_ok());
        for pattern in ["attn=CPU", "exps=CUDA0", r"blk\.1\..*=CPU"] {
            assert!(override_tensor(pattern).unwrap_err().contains(pattern));
        }
        assert_eq!((gpu_layers("99"), gpu_layers("all")), (Ok(99), Ok(u32::MAX)));
        assert!(gpu_layers("many").is_err());
    }
}
