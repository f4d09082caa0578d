//! What a session keeps of each position, by architecture: keys and values, latents, recurrent states.

use super::Result;
use super::tensors::{Heads, layers, recurrent};
use crate::models::Keys;

/// Values that a session keeps, in all layers together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cache {
    /// Of every position, as if no layer had a window.
    pub per_position: f64,
    /// However long the context is; f32.
    pub fixed: u64,
}

impl Cache {
    /// Bytes for `positions`, the values of positions `bytes` each.
    pub fn bytes(&self, positions: usize, bytes: u64) -> u64 {
        (self.per_position * positions as f64) as u64 * bytes + 4 * self.fixed
    }
}

/// What the architecture of `keys` keeps.
pub fn cache(keys: &Keys) -> Result<Cache> {
    let mut cache = Cache::default();
    for layer in 0..layers(keys)? {
        match keys.architecture() {
            "deepseek2" | "glm-dsa" => {
                let latent = keys.size("attention.kv_lora_rank")? + keys.size("rope.dimension_count")?;
                cache.per_position += (latent + keys.count_or("attention.indexer.key_length", 0)?) as f64;
            }
            "deepseek4" => cache.compressed(keys, layer)?,
            "qwen3next" | "qwen35" | "qwen35moe" if recurrent(keys, layer)? => {
                let (state, inner) = (keys.size("ssm.state_size")?, keys.size("ssm.inner_size")?);
                let channels = 2 * keys.size("ssm.group_count")? * state + inner;
                cache.fixed += (inner * state + channels * keys.size("ssm.conv_kernel")?.saturating_sub(1)) as u64;
            }
            _ => cache.per_position += (2 * Heads::of(keys, layer)?.kv) as f64,
        }
    }
    Ok(cache)
}

impl Cache {
    /// deepseek4: keys, which are the values, too; one entry for each `ratio` positions; and three sums of each channel of a
    /// window of as many positions, which at ratio 4 are twice as wide.
    fn compressed(&mut self, keys: &Keys, layer: usize) -> Result<()> {
        let head_dim = keys.size("attention.key_length")?;
        self.per_position += head_dim as f64;
        match keys.count_of_layer("attention.compress_ratios", layer)? {
            0 => {}
            4 => {
                let both = head_dim + keys.size("attention.indexer.key_length")?;
                self.per_position += both as f64 / 4.0;
                self.fixed += 6 * both as u64;
            }
            ratio => {
                self.per_position += head_dim as f64 / ratio as f64;
                self.fixed += 3 * head_dim as u64;
            }
        }
        Ok(())
    }
}
