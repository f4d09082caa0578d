//! What a file, or a preset made into one, asks of a machine.

use super::tensors::{Heads, is_expert, layers};
use super::{Result, cache};
use crate::gguf::{Gguf, TensorInfo};
use crate::memory::{Demand, ExpertLayer, Extent, KvCache, KvFormat};
use crate::models::{self, Keys};
use crate::session::{Session, SessionOptions};

/// A model's demand.
pub struct Asked {
    pub demand: Demand,
    /// halogen runs the architecture; else cache and scratch are estimates.
    pub runs: bool,
}

/// What `gguf` asks for with a context of `context` tokens, or the usual one, in a cache of `kv`. Blocks that predict further tokens are not read.
///
/// # Errors
/// A hyperparameter that is missing or absurd, or heads that a cache of `kv` does not hold.
pub fn asked(gguf: &Gguf, context: Option<usize>, kv: KvFormat) -> Result<Asked> {
    let keys = Keys::new(gguf, gguf.architecture()?);
    let trunk = layers(&keys)?;
    if trunk > gguf.tensors().len() {
        let problem = format!("there are {} tensors", gguf.tensors().len());
        return Err(keys.error("block_count", trunk, problem).into());
    }
    let (count, used) = (keys.count_or("expert_count", 0)?, keys.count_or("expert_used_count", 0)?);
    if used > count {
        return Err(keys.error("expert_used_count", used, format!("there are {count} experts")).into());
    }
    let mut demand = Demand { dense: vec![0; trunk + 1], ..Demand::default() };
    let mut experts = vec![0; trunk];
    let tied = gguf.tensor("output.weight").is_none();
    for t in gguf.tensors() {
        let values = t.dims.iter().product::<u64>();
        let layer = layer_of(t);
        match layer {
            Some(layer) if layer >= trunk => continue,
            Some(layer) if is_expert(&t.name) && count > 0 => {
                experts[layer] += t.bytes;
                demand.active_parameters += (u128::from(values) * used as u128 / count as u128) as u64;
            }
            _ if is_table(t) && !(tied && t.name == "token_embd.weight") => demand.tables += t.bytes,
            _ => {
                demand.dense[layer.unwrap_or(trunk)] += t.bytes;
                demand.active_parameters += values;
            }
        }
        demand.parameters += values;
    }
    let layer = |(layer, bytes): (usize, u64)| ExpertLayer {
        layer: layer as u32,
        count: count as u64,
        used: used as u64,
        bytes: bytes / count as u64,
    };
    demand.experts = experts.into_iter().enumerate().filter(|(_, bytes)| *bytes > 0).map(layer).collect();
    let options = SessionOptions { context, kv, ..SessionOptions::default() };
    let runs = match models::shape(gguf) {
        Ok(shape) => {
            KvCache::check(&shape.keeps, kv)?;
            let needs = Session::needs(&shape, &options);
            (demand.kv, demand.scratch, demand.context) = (needs.kv, needs.scratch, needs.context);
            let read = Extent { positions: needs.context, beyond: 0 };
            demand.kv_read = KvCache::bytes(&shape.keeps, read, options.kv);
            true
        }
        Err(models::Error::UnknownArchitecture { .. }) => {
            demand.context = context.unwrap_or(keys.size("context_length")?.min(8192));
            demand.kv = cache(&keys)?.bytes(demand.context, 2);
            demand.kv_read = demand.kv;
            demand.scratch = scratch(&keys, demand.context.min(options.chunk))?;
            false
        }
        Err(error) => return Err(error.into()),
    };
    Ok(Asked { demand, runs })
}

/// N of `blk.N.`.
fn layer_of(t: &TensorInfo) -> Option<usize> {
    t.name.strip_prefix("blk.")?.split_once('.')?.0.parse().ok()
}

/// Whether a token reads one row of a tensor.
fn is_table(t: &TensorInfo) -> bool {
    matches!(t.name.as_str(), "token_embd.weight" | "per_layer_token_embd.weight")
        || t.name.ends_with("_tid2eid.weight")
}

/// About what activations of a chunk take: the stream and its norm, q, k, v and the result, the feed-forward.
fn scratch(keys: &Keys, chunk: usize) -> Result<u64> {
    let heads = Heads::of(keys, 0)?;
    let dense = keys.count_or("feed_forward_length", 0)?;
    let experts = keys.count_or("expert_used_count", 0)?
        * (keys.count_or("expert_feed_forward_length", 0)? + heads.hidden)
        + keys.count_or("expert_count", 0)?;
    let floats = 2 * heads.hidden + 3 * heads.q + 2 * heads.kv + dense.max(experts);
    Ok(4 * (chunk * floats) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::{Metadata, Value, Writer};
    use crate::presets::{Mixture, ModelPreset, Synthetic, models};

    fn of(name: &str, mixture: Mixture) -> Asked {
        let preset = ModelPreset::named(name).unwrap();
        asked(&Synthetic::new(preset, mixture, preset.layers(), 1).unwrap().gguf().unwrap(), Some(4096), KvFormat::F16)
            .unwrap()
    }

    #[test]
    fn all_bytes_and_parameters_of_a_file_are_asked_for() {
        for preset in models() {
            let tensors = preset.tensors(preset.layers(), preset.format()).unwrap();
            let demand = of(&preset.name, preset.format()).demand;
            let bytes: u64 = tensors.iter().map(|t| t.bytes).sum();
            assert_eq!(demand.dense_bytes() + demand.expert_bytes(), bytes, "{}", preset.name);
            assert!(demand.kv > 0 && demand.active_parameters <= demand.parameters, "{}", preset.name);
        }
    }

    #[test]
    fn caches_are_those_of_the_architecture() {
        // 48 layers, 4 heads of 128, keys and values in f16; and the 2,048 positions that a layer has while it grows to 4,096.
        let layer = 2 * 4 * 128 * 2;
        assert_eq!(of("qwen3-30b-a3b", Mixture::Q4KM).demand.kv, (48 * 4096 + 2048) * layer);
        // Blocks of 32 in 34 bytes.
        let preset = ModelPreset::named("qwen3-30b-a3b").unwrap();
        let file = Synthetic::new(preset, Mixture::Q4KM, preset.layers(), 1).unwrap().gguf().unwrap();
        let rounded = asked(&file, Some(4096), KvFormat::Q8_0).unwrap().demand;
        let layer = 2 * 4 * 128 * 34 / 32;
        assert_eq!((rounded.kv, rounded.kv_read), ((48 * 4096 + 2048) * layer, 48 * 4096 * layer));
        // Of 62 layers, 10 keep all positions, the others 1024 of a window, a chunk of 512 and 17 queued ahead.
        let gemma = of("gemma-3-27b", Mixture::Q4KM).demand;
        assert_eq!(gemma.kv, (10 * 4096 + 52 * (1024 + 512 + 17) + 2048) * 2 * 16 * 128 * 2);
        assert_eq!(gemma.kv_read, (10 * 4096 + 52 * 1024) * 2 * 16 * 128 * 2);
        // A latent of 512 and 64 rotated values in each of 61 layers.
        let preset = ModelPreset::named("deepseek-r1").unwrap();
        let metadata = preset.metadata(61);
        let kept = cache(&Keys::of("r1", &metadata, "deepseek2")).unwrap();
        assert_eq!((kept.per_position, kept.fixed), (61.0 * 576.0, 0));
    }

    #[test]
    fn absurd_counts_are_refused_by_name() {
        let refused = |key: &str, value: Value| {
            let mut metadata = ModelPreset::named("qwen3-30b-a3b").unwrap().metadata(1);
            metadata.insert(format!("qwen3moe.{key}"), value);
            let gguf = made(&metadata);
            asked(&gguf, None, KvFormat::F16).err().expect("an error").to_string()
        };
        for (key, value) in [("block_count", 1 << 24), ("expert_used_count", 129), ("expert_count", 1 << 30)] {
            let said = refused(key, (value as u32).into());
            assert!(said.contains(key) && said.contains(&value.to_string()), "{said}");
        }
        assert!(refused("block_count", "one".into()).contains("block_count"));
    }

    /// A file of one tensor.
    fn made(metadata: &Metadata) -> Gguf {
        let mut writer = Writer::new(metadata).unwrap();
        writer.tensor("token_embd.weight", &[2, 2], 0, &[0; 16]).unwrap();
        let mut file = Vec::new();
        writer.write(&mut file).unwrap();
        Gguf::from_bytes("made.gguf", file).unwrap()
    }
}
