//! One function an architecture, as `src/models` reads it or will.

use super::{Experts, Heads, Kind, List, Result, Untold, layers, recurrent, windowed};
use crate::models::Keys;

type Lister = fn(&mut List, &Keys, &Untold) -> Result<()>;

pub const ALL: &[(&str, Lister)] = &[
    ("deepseek2", deepseek2),
    ("deepseek4", deepseek4),
    ("gemma3", gemma3),
    ("gemma4", gemma4),
    ("glm-dsa", deepseek2),
    ("glm4moe", glm4moe),
    ("gpt-oss", gpt_oss),
    ("llama", llama),
    ("llama4", llama4),
    ("mistral3", llama),
    ("qwen2", qwen2),
    ("qwen3", qwen3),
    ("qwen35moe", qwen3next),
    ("qwen3moe", qwen3moe),
    ("qwen3next", qwen3next),
    ("step35", step35),
];

fn llama(list: &mut List, keys: &Keys, untold: &Untold) -> Result<()> {
    dense(list, keys, untold, |_, _| ())
}

fn qwen2(list: &mut List, keys: &Keys, untold: &Untold) -> Result<()> {
    dense(list, keys, untold, |list, heads| list.qkv_bias(heads))
}

fn qwen3(list: &mut List, keys: &Keys, untold: &Untold) -> Result<()> {
    dense(list, keys, untold, |list, heads| list.qk_norm(heads.head_dim))
}

fn gemma3(list: &mut List, keys: &Keys, untold: &Untold) -> Result<()> {
    dense(list, keys, untold, |list, heads| {
        list.qk_norm(heads.head_dim);
        list.float("post_attention_norm", &[heads.hidden]);
        list.float("post_ffw_norm", &[heads.hidden]);
    })
}

/// Layers of attention and an MLP, with `more` in each.
fn dense(list: &mut List, keys: &Keys, untold: &Untold, more: fn(&mut List, &Heads)) -> Result<()> {
    let ff = keys.size("feed_forward_length")?;
    let heads = Heads::of(keys, 0)?;
    list.ends(heads.hidden, untold);
    if untold.rope_freqs {
        list.float("rope_freqs", &[heads.head_dim / 2]);
    }
    for layer in 0..layers(keys)? {
        list.enter(layer);
        list.float("attn_norm", &[heads.hidden]);
        list.attention(&heads);
        more(list, &heads);
        list.float("ffn_norm", &[heads.hidden]);
        list.mlp(heads.hidden, ff, "");
    }
    Ok(())
}

fn qwen3moe(list: &mut List, keys: &Keys, untold: &Untold) -> Result<()> {
    let (heads, experts) = (Heads::of(keys, 0)?, Experts::of(keys)?);
    list.ends(heads.hidden, untold);
    for layer in 0..layers(keys)? {
        list.enter(layer);
        list.float("attn_norm", &[heads.hidden]);
        list.attention(&heads);
        list.qk_norm(heads.head_dim);
        list.float("ffn_norm", &[heads.hidden]);
        list.experts(heads.hidden, &experts);
    }
    Ok(())
}

fn gpt_oss(list: &mut List, keys: &Keys, untold: &Untold) -> Result<()> {
    let (heads, experts) = (Heads::of(keys, 0)?, Experts::of(keys)?);
    list.ends(heads.hidden, untold);
    for layer in 0..layers(keys)? {
        list.enter(layer);
        list.float("attn_norm", &[heads.hidden]);
        list.attention(&heads);
        list.qkv_bias(&heads);
        list.bias("attn_output", &[heads.hidden]);
        list.float("attn_sinks", &[heads.heads]);
        list.float("post_attention_norm", &[heads.hidden]);
        list.experts(heads.hidden, &experts);
        list.bias("ffn_gate_inp", &[experts.count]);
        list.bias("ffn_gate_exps", &[experts.ff, experts.count]);
        list.bias("ffn_up_exps", &[experts.ff, experts.count]);
        list.bias("ffn_down_exps", &[heads.hidden, experts.count]);
    }
    Ok(())
}

fn glm4moe(list: &mut List, keys: &Keys, untold: &Untold) -> Result<()> {
    let (heads, experts) = (Heads::of(keys, 0)?, Experts::of(keys)?);
    let (ff, dense) = (keys.size("feed_forward_length")?, keys.count_or("leading_dense_block_count", 0)?);
    let shared = experts.ff * keys.size_or("expert_shared_count", 1)?;
    list.ends(heads.hidden, untold);
    for layer in 0..layers(keys)? {
        list.enter(layer);
        list.float("attn_norm", &[heads.hidden]);
        list.attention(&heads);
        if untold.qkv_bias {
            list.qkv_bias(&heads);
        }
        if untold.qk_norm {
            list.qk_norm(heads.head_dim);
        }
        list.float("post_attention_norm", &[heads.hidden]);
        if layer < dense {
            list.mlp(heads.hidden, ff, "");
            continue;
        }
        list.experts(heads.hidden, &experts);
        list.bias("exp_probs_b", &[experts.count]);
        list.mlp(heads.hidden, shared, "_shexp");
    }
    Ok(())
}

/// DeepSeek V3 and, with an indexer in each layer, GLM-5.
fn deepseek2(list: &mut List, keys: &Keys, untold: &Untold) -> Result<()> {
    let (hidden, heads, experts) =
        (keys.size("embedding_length")?, keys.size("attention.head_count")?, Experts::of(keys)?);
    let (ff, dense) = (keys.size("feed_forward_length")?, keys.count_or("leading_dense_block_count", 0)?);
    let shared = experts.ff * keys.size_or("expert_shared_count", 1)?;
    let (q_rank, kv_rank) = (keys.size("attention.q_lora_rank")?, keys.size("attention.kv_lora_rank")?);
    let (key, value) = (keys.size("attention.key_length_mla")?, keys.size("attention.value_length_mla")?);
    let rope = keys.size("rope.dimension_count")?;
    let indexer = match keys.count_or("attention.indexer.head_count", 0)? {
        0 => None,
        count => Some((count, keys.size("attention.indexer.key_length")?)),
    };
    list.ends(hidden, untold);
    for layer in 0..layers(keys)? {
        list.enter(layer);
        list.float("attn_norm", &[hidden]);
        list.matrix("attn_q_a", &[hidden, q_rank]);
        list.float("attn_q_a_norm", &[q_rank]);
        list.matrix("attn_q_b", &[q_rank, heads * key]);
        list.matrix("attn_kv_a_mqa", &[hidden, kv_rank + rope]);
        list.float("attn_kv_a_norm", &[kv_rank]);
        list.matrix("attn_k_b", &[key.saturating_sub(rope), kv_rank, heads]);
        list.matrix("attn_v_b", &[kv_rank, value, heads]);
        list.matrix("attn_output", &[heads * value, hidden]);
        if let Some((count, width)) = indexer {
            list.matrix("indexer.attn_q_b", &[q_rank, count * width]);
            list.matrix("indexer.attn_k", &[hidden, width]);
            list.float("indexer.k_norm", &[width]);
            list.bias("indexer.k_norm", &[width]);
            list.float("indexer.proj", &[hidden, count]);
        }
        list.float("ffn_norm", &[hidden]);
        if layer < dense {
            list.mlp(hidden, ff, "");
            continue;
        }
        list.experts(hidden, &experts);
        list.bias("exp_probs_b", &[experts.count]);
        list.mlp(hidden, shared, "_shexp");
    }
    Ok(())
}

/// Qwen3-Next and the mixtures of Qwen3.5.
fn qwen3next(list: &mut List, keys: &Keys, untold: &Untold) -> Result<()> {
    let (heads, experts) = (Heads::of(keys, 0)?, Experts::of(keys)?);
    let (hidden, shared) = (heads.hidden, keys.size("expert_shared_feed_forward_length")?);
    let (state, groups) = (keys.size("ssm.state_size")?, keys.size("ssm.group_count")?);
    let (values, inner) = (keys.size("ssm.time_step_rank")?, keys.size("ssm.inner_size")?);
    let channels = 2 * groups * state + inner;
    list.ends(hidden, untold);
    for layer in 0..layers(keys)? {
        list.enter(layer);
        list.float("attn_norm", &[hidden]);
        if recurrent(keys, layer)? {
            list.matrix("attn_qkv", &[hidden, channels]);
            list.matrix("attn_gate", &[hidden, inner]);
            list.push("ssm_a", &[values], Kind::F32);
            list.bias("ssm_dt", &[values]);
            list.float("ssm_conv1d", &[keys.size("ssm.conv_kernel")?, channels]);
            if keys.architecture() == "qwen3next" {
                list.matrix("ssm_ba", &[hidden, 2 * values]);
            } else {
                list.matrix("ssm_alpha", &[hidden, values]);
                list.matrix("ssm_beta", &[hidden, values]);
            }
            list.float("ssm_norm", &[state]);
            list.matrix("ssm_out", &[inner, hidden]);
        } else {
            // Each head of q comes with a gate of its output.
            list.matrix("attn_q", &[hidden, 2 * heads.q]);
            list.matrix("attn_k", &[hidden, heads.kv]);
            list.matrix("attn_v", &[hidden, heads.kv]);
            list.matrix("attn_output", &[heads.q, hidden]);
            list.qk_norm(heads.head_dim);
        }
        list.float("post_attention_norm", &[hidden]);
        list.experts(hidden, &experts);
        list.float("ffn_gate_inp_shexp", &[hidden, 1]);
        list.mlp(hidden, shared, "_shexp");
    }
    Ok(())
}

fn llama4(list: &mut List, keys: &Keys, untold: &Untold) -> Result<()> {
    let (heads, experts) = (Heads::of(keys, 0)?, Experts::of(keys)?);
    let (ff, step) = (keys.size("feed_forward_length")?, keys.size("interleave_moe_layer_step")?);
    list.ends(heads.hidden, untold);
    for layer in 0..layers(keys)? {
        list.enter(layer);
        list.float("attn_norm", &[heads.hidden]);
        list.attention(&heads);
        list.float("ffn_norm", &[heads.hidden]);
        if (layer + 1).is_multiple_of(step) {
            list.experts(heads.hidden, &experts);
            list.mlp(heads.hidden, experts.ff, "_shexp");
        } else {
            list.mlp(heads.hidden, ff, "");
        }
    }
    Ok(())
}

fn gemma4(list: &mut List, keys: &Keys, untold: &Untold) -> Result<()> {
    let (hidden, ff) = (keys.size("embedding_length")?, keys.size("feed_forward_length")?);
    let experts = if keys.count_or("expert_count", 0)? > 0 { Some(Experts::of(keys)?) } else { None };
    list.ends(hidden, untold);
    list.float("rope_freqs", &[keys.size("attention.key_length")? / 2]);
    for layer in 0..layers(keys)? {
        list.enter(layer);
        let heads = Heads::of(keys, layer)?;
        list.float("attn_norm", &[hidden]);
        list.matrix("attn_q", &[hidden, heads.q]);
        list.matrix("attn_k", &[hidden, heads.kv]);
        if windowed(keys, layer)? {
            // Where all is seen, the values are the keys.
            list.matrix("attn_v", &[hidden, heads.kv]);
        }
        list.matrix("attn_output", &[heads.q, hidden]);
        list.qk_norm(heads.head_dim);
        for norm in ["post_attention_norm", "ffn_norm", "post_ffw_norm"] {
            list.float(norm, &[hidden]);
        }
        list.mlp(hidden, ff, "");
        list.float("layer_output_scale", &[1]);
        if let Some(Experts { count, ff }) = experts {
            for norm in ["pre_ffw_norm_2", "post_ffw_norm_1", "post_ffw_norm_2"] {
                list.float(norm, &[hidden]);
            }
            list.float("ffn_gate_inp", &[hidden, count]);
            list.push("ffn_gate_inp.scale", &[hidden], Kind::F32);
            list.matrix("ffn_gate_up_exps", &[hidden, 2 * ff, count]);
            list.matrix("ffn_down_exps", &[ff, hidden, count]);
            list.push("ffn_down_exps.scale", &[count], Kind::F32);
        }
    }
    Ok(())
}

fn step35(list: &mut List, keys: &Keys, untold: &Untold) -> Result<()> {
    let (ff, dense) = (keys.size("feed_forward_length")?, keys.count_or("leading_dense_block_count", 0)?);
    let (experts, shared) = (Experts::of(keys)?, keys.size("expert_shared_feed_forward_length")?);
    let hidden = keys.size("embedding_length")?;
    list.ends(hidden, untold);
    list.float("rope_freqs", &[keys.size("attention.key_length")? / 2]);
    for layer in 0..layers(keys)? {
        list.enter(layer);
        let heads = Heads::of(keys, layer)?;
        list.float("attn_norm", &[hidden]);
        list.attention(&heads);
        list.matrix("attn_gate", &[hidden, heads.heads]);
        list.qk_norm(heads.head_dim);
        list.float("ffn_norm", &[hidden]);
        if layer < dense {
            list.mlp(hidden, ff, "");
            continue;
        }
        list.experts(hidden, &experts);
        list.bias("exp_probs_b", &[experts.count]);
        list.mlp(hidden, shared, "_shexp");
    }
    Ok(())
}

fn deepseek4(list: &mut List, keys: &Keys, untold: &Untold) -> Result<()> {
    let (heads, experts) = (Heads::of(keys, 0)?, Experts::of(keys)?);
    let Heads { hidden, head_dim, .. } = heads;
    let (q_rank, groups) = (keys.size("attention.q_lora_rank")?, keys.size("attention.output_group_count")?);
    let out_rank = groups * keys.size("attention.output_lora_rank")?;
    let (index_heads, index_dim) =
        (keys.size("attention.indexer.head_count")?, keys.size("attention.indexer.key_length")?);
    let shared = experts.ff * keys.size_or("expert_shared_count", 1)?;
    let streams = keys.size("hyper_connection.count")?;
    let hashed = keys.count_or("hash_layer_count", 0)?;
    list.ends(hidden, untold);
    list.float("output_hc_fn", &[streams * hidden, streams]);
    list.float("output_hc_base", &[streams]);
    list.float("output_hc_scale", &[1]);
    for layer in 0..layers(keys)? {
        list.enter(layer);
        for half in ["attn", "ffn"] {
            // Into a branch, out of it, and between the streams.
            let mixes = streams * (streams + 2);
            list.float(&format!("hc_{half}_fn"), &[streams * hidden, mixes]);
            list.float(&format!("hc_{half}_base"), &[mixes]);
            list.float(&format!("hc_{half}_scale"), &[3]);
        }
        list.float("attn_norm", &[hidden]);
        list.float("attn_sinks", &[heads.heads]);
        list.matrix("attn_q_a", &[hidden, q_rank]);
        list.float("attn_q_a_norm", &[q_rank]);
        list.matrix("attn_q_b", &[q_rank, heads.q]);
        list.matrix("attn_kv", &[hidden, head_dim]);
        list.float("attn_kv_a_norm", &[head_dim]);
        list.matrix("attn_output_a", &[heads.q / groups, out_rank]);
        list.matrix("attn_output_b", &[out_rank, hidden]);
        let ratio = keys.count_of_layer("attention.compress_ratios", layer)?;
        if ratio > 0 {
            compressor(list, "attn", hidden, head_dim, ratio);
        }
        if ratio == 4 {
            compressor(list, "indexer", hidden, index_dim, ratio);
            list.matrix("indexer.attn_q_b", &[q_rank, index_heads * index_dim]);
            list.float("indexer.proj", &[hidden, index_heads]);
        }
        list.float("ffn_norm", &[hidden]);
        list.experts(hidden, &experts);
        if layer < hashed {
            let used = keys.size("expert_used_count")?;
            list.push("ffn_gate_tid2eid.weight", &[used, untold.vocabulary], Kind::I32);
        } else {
            list.bias("exp_probs_b", &[experts.count]);
        }
        list.mlp(hidden, shared, "_shexp");
    }
    Ok(())
}

/// Of deepseek4: windows of `ratio` positions become one entry. At ratio 4 they overlap, and all is twice as wide.
fn compressor(list: &mut List, what: &str, hidden: usize, head_dim: usize, ratio: usize) {
    let width = if ratio == 4 { 2 * head_dim } else { head_dim };
    list.float(&format!("{what}_compressor_ape"), &[width, ratio]);
    list.float(&format!("{what}_compressor_norm"), &[head_dim]);
    list.matrix(&format!("{what}_compressor_gate"), &[hidden, width]);
    list.matrix(&format!("{what}_compressor_kv"), &[hidden, width]);
}
