//! Operators at the sizes of published models, as the presets have them: a token, and several. `tests/presets.rs` runs whole
//! layers of these sizes.

use crate::rig::Case;
use crate::{attention, delta_net, experts, heads, index, latent, linear, rows};
use halogen::models::Keys;
use halogen::ops::{DeltaHeads, KeySharing, Scoring, Window};
use halogen::presets::{Heads, Result, models};
use std::collections::HashSet;

pub fn cases(cases: &mut Vec<Case>) {
    let mut found = Vec::new();
    for model in models() {
        let metadata = model.metadata(model.layers());
        of_model(&mut found, &Keys::of(&model.name, &metadata, &model.architecture)).expect("a preset's keys");
    }
    // Models share sizes with each other, and with other cases.
    let mut names: HashSet<String> = cases.iter().map(|case| case.name.clone()).collect();
    cases.extend(found.into_iter().filter(|case| names.insert(case.name.clone())));
}

fn of_model(cases: &mut Vec<Case>, keys: &Keys) -> Result<()> {
    let hidden = keys.size("embedding_length")?;
    linear::of_model(cases, hidden);
    match keys.count_or("attention.kv_lora_rank", 0)? {
        0 => grouped(cases, keys)?,
        rank => {
            let (heads, rope) = (keys.size("attention.head_count")?, keys.size("rope.dimension_count")?);
            let (key, value) = (keys.size("attention.key_length_mla")?, keys.size("attention.value_length_mla")?);
            latent::of_model(cases, [heads, rank, rope, key - rope, value]);
            linear::of_model(cases, keys.size("attention.q_lora_rank")?);
            linear::of_model(cases, heads * value);
        }
    }
    if let indexed @ 1.. = keys.count_or("attention.indexer.head_count", 0)? {
        let (dim, rope) = (keys.size("attention.indexer.key_length")?, keys.size("rope.dimension_count")?);
        index::of_model(cases, [indexed, dim, rope, keys.size("attention.indexer.top_k")?]);
    }
    if let inner @ 1.. = keys.count_or("ssm.inner_size", 0)? {
        let dim = keys.size("ssm.state_size")?;
        let sharing = if keys.architecture() == "qwen3next" { KeySharing::Grouped } else { KeySharing::Tiled };
        delta_net::of_model(
            cases,
            DeltaHeads {
                key_heads: keys.size("ssm.group_count")?,
                value_heads: keys.size("ssm.time_step_rank")?,
                key_dim: dim,
                value_dim: inner / keys.size("ssm.time_step_rank")?,
                taps: keys.size("ssm.conv_kernel")?,
                sharing,
            },
        );
    }
    if let count @ 1.. = keys.count_or("expert_count", 0)? {
        let scoring = match keys.count_or("expert_gating_func", 0)? {
            2 => Some(Scoring::Sigmoid),
            4 => Some(Scoring::SqrtSoftplus),
            _ => None,
        };
        let groups = keys.size_or("expert_group_count", 1)?;
        let groups = (groups, keys.size_or("expert_group_used_count", groups)?);
        rows::of_model(cases, count, keys.size("expert_used_count")?, groups, scoring);
        experts::of_model(cases, hidden, keys.size("expert_feed_forward_length")?);
    }
    Ok(())
}

/// Attention of grouped heads, of each kind of layer.
fn grouped(cases: &mut Vec<Case>, keys: &Keys) -> Result<()> {
    let window = keys.count_or("attention.sliding_window", 0)?;
    for layer in 0..keys.size("block_count")? {
        let sizes = Heads::of(keys, layer)?;
        let kv_heads = sizes.kv / sizes.head_dim;
        attention::of_model(cases, &sizes, kv_heads, None);
        if window > 0 {
            attention::of_model(cases, &sizes, kv_heads, Some(Window::Last(window)));
        }
        let rope = keys.size_or("rope.dimension_count", sizes.head_dim)?.min(sizes.head_dim);
        heads::of_model(cases, &sizes, kv_heads, rope);
        linear::of_model(cases, sizes.q / keys.size_or("attention.output_group_count", 1)?);
    }
    Ok(())
}
