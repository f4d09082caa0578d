//! Files that are no model that halogen can run.

use crate::common::*;
use halogen::formats::Format;
use halogen::gguf::{Array, Strings, Value};
use halogen::session::{Model, Session, SessionOptions};

fn made(architecture: &str) -> Made {
    Made::new(architecture, Format::F16, &TINY)
}

/// What a made-up file is refused with; every such message begins with the file's name.
fn refusal(made: &Made) -> String {
    let error = match made.load() {
        Err(error) => error.to_string(),
        Ok(_) => panic!("the file was loaded"),
    };
    assert!(error.starts_with("made.gguf: "), "{error}");
    error
}

/// Changes a model and looks for all of `words` in what it is refused with.
#[track_caller]
fn check(architecture: &str, change: impl FnOnce(&mut Made), words: &[&str]) {
    let mut made = made(architecture);
    change(&mut made);
    let error = refusal(&made);
    for word in words {
        assert!(error.contains(word), "`{word}` is not in: {error}");
    }
}

#[track_caller]
fn check_key(architecture: &str, key: &str, value: impl Into<Value>, words: &[&str]) {
    let value = value.into();
    check(architecture, |made| made.set(key, value), &[&[key], words].concat());
}

#[test]
fn an_unknown_architecture() {
    let change = |made: &mut Made| made.metadata.insert("general.architecture", "mamba9".into());
    check("llama", change, &["mamba9", "not supported", "llama", "qwen3moe"]);
}

#[test]
fn missing_tensors() {
    for (architecture, name) in [
        ("llama", "token_embd.weight"),
        ("llama", "output_norm.weight"),
        ("llama", "blk.1.attn_norm.weight"),
        ("qwen2", "blk.0.attn_k.bias"),
        ("qwen3", "blk.1.attn_q_norm.weight"),
        ("qwen3", "blk.1.attn_k_norm.weight"),
        ("qwen3moe", "blk.1.ffn_gate_inp.weight"),
        ("qwen3moe", "blk.0.ffn_down_exps.weight"),
        ("qwen3next", "blk.0.ssm_ba.weight"),
        ("qwen35", "blk.0.ssm_alpha.weight"),
        ("qwen35", "blk.0.ssm_dt.bias"),
        ("qwen35", "blk.1.attn_q_norm.weight"),
        ("qwen35moe", "blk.1.ffn_gate_inp_shexp.weight"),
        ("qwen35moe", "blk.0.ffn_up_shexp.weight"),
        ("deepseek2", "blk.0.attn_k_b.weight"),
        ("deepseek2", "blk.1.attn_kv_a_norm.weight"),
        ("deepseek4", "blk.0.ffn_gate_tid2eid.weight"),
        ("deepseek4", "blk.1.exp_probs_b.bias"),
        ("deepseek4", "blk.0.indexer_compressor_ape.weight"),
        ("deepseek4", "blk.1.attn_compressor_gate.weight"),
        ("deepseek4", "blk.1.hc_ffn_base.weight"),
        ("deepseek4", "output_hc_fn.weight"),
        ("llama4", "blk.1.ffn_gate_shexp.weight"),
        ("step35", "blk.1.attn_gate.weight"),
        ("gemma4", "blk.1.ffn_down_exps.scale"),
        ("gemma4", "blk.0.pre_ffw_norm_2.weight"),
        ("gemma4", "blk.1.attn_k_norm.weight"),
        ("step35", "blk.1.exp_probs_b.bias"),
        ("step35", "blk.0.attn_q_norm.weight"),
        ("llama4", "blk.0.ffn_up.weight"),
        ("glm-dsa", "blk.0.indexer.k_norm.bias"),
        ("glm-dsa", "blk.1.indexer.attn_q_b.weight"),
        ("glm4moe", "blk.0.exp_probs_b.bias"),
        ("glm4moe", "blk.1.ffn_down_shexp.weight"),
    ] {
        check(architecture, |made| made.remove(name), &[&format!("tensor {name} is missing")]);
    }
    let deeper = |made: &mut Made| made.set("block_count", 3u32.into());
    check("llama", deeper, &["tensor blk.2.attn_q.weight is missing"]);
}

#[test]
fn tensors_of_another_shape_or_type() {
    let matrix =
        |name: &'static str, dims: &'static [usize]| move |made: &mut Made| made.matrix(name, dims, Format::F16, 1.0);
    check("llama", matrix("blk.0.ffn_up.weight", &[32, 47]), &["blk.0.ffn_up.weight", "[32, 47]", "[32, 48]"]);
    check("llama", matrix("output.weight", &[32, 95]), &["output.weight", "[32, 95]", "[32, 96]"]);
    check("llama", matrix("token_embd.weight", &[36, 96]), &["token_embd.weight", "[36, 96]", "[32, 96]"]);
    check("llama", matrix("output_norm.weight", &[31]), &["output_norm.weight", "[31]", "[32]"]);
    check("qwen3moe", matrix("blk.1.ffn_up_exps.weight", &[32, 48, 5]), &["blk.1.ffn_up_exps.weight", "[32, 48, 5]"]);
    let integers = |made: &mut Made| {
        let tensor = Tensor { name: "output.weight".into(), dims: vec![32, 96], ggml_type: 26, bytes: vec![0; 12288] };
        made.put(tensor);
    };
    check("llama", integers, &["output.weight", "i32", "it reads f32, f16"]);
    let quantized = |made: &mut Made| {
        let bytes = vec![0; 34];
        made.put(Tensor { name: "output_norm.weight".into(), dims: vec![32], ggml_type: 8, bytes });
    };
    check("llama", quantized, &["output_norm.weight", "q8_0", "a vector", "f32, f16, bf16"]);
}

#[test]
fn tensors_that_no_part_of_the_model_reads() {
    let more = |made: &mut Made| {
        made.matrix("blk.0.attn_output.bias", &[32], Format::F32, 1.0);
        made.matrix("blk.1.attn_output.bias", &[32], Format::F32, 1.0);
    };
    check("llama", more, &["blk.0.attn_output.bias and 1 more"]);
    // Qwen2's biases on what says to be qwen3.
    let biased = |made: &mut Made| made.matrix("blk.0.attn_q.bias", &[32], Format::F32, 1.0);
    check("qwen3", biased, &["blk.0.attn_q.bias"]);
}

#[test]
fn counts_that_are_zero_absent_or_absurd() {
    for key in [
        "block_count",
        "context_length",
        "embedding_length",
        "feed_forward_length",
        "attention.head_count",
        "attention.head_count_kv",
        "attention.key_length",
        "rope.dimension_count",
    ] {
        check_key("llama", key, 0u32, &["= 0: a number from 1 to 16777216"]);
        check_key("llama", key, 1u64 << 40, &["= 1099511627776: a number from 1 to 16777216"]);
        check_key("llama", key, u64::MAX, &["18446744073709551615"]);
        check_key("llama", key, -1i32, &["-1"]);
        check_key("llama", key, "many", &["string"]);
    }
    for key in ["expert_count", "expert_used_count", "expert_feed_forward_length"] {
        check_key("qwen3moe", key, 0u32, &["= 0: a number from 1 to"]);
        check_key("qwen3moe", key, 1u64 << 40, &["= 1099511627776"]);
    }
    let bare = |made: &mut Made| {
        let mut kept = halogen::gguf::Metadata::new();
        made.metadata.iter().filter(|(k, _)| *k != "llama.block_count").for_each(|(k, v)| kept.insert(k, v.clone()));
        made.metadata = kept;
    };
    check("llama", bare, &["llama.block_count", "missing"]);
}

#[test]
fn sizes_that_do_not_go_together() {
    check_key("llama", "attention.head_count_kv", 3u32, &["= 3", "4 heads cannot share them"]);
    check_key("llama", "attention.head_count_kv", 8u32, &["= 8", "4 heads cannot share them"]);
    check_key("llama", "attention.value_length", 12u32, &["= 12", "keys of 8"]);
    check_key("llama", "rope.dimension_count", 5u32, &["= 5", "an even number up to 8"]);
    check_key("llama", "rope.dimension_count", 10u32, &["= 10", "an even number up to 8"]);
    check_key("qwen3moe", "expert_used_count", 7u32, &["= 7", "there are 6 experts"]);
    check_key("qwen3moe", "expert_count", 5000u32, &["= 5000", "at most 1024"]);
    // What kernels cannot do, said before anything is loaded.
    for dim in [3u32, 516, 1024] {
        let set = |made: &mut Made| {
            made.set("attention.value_length", dim.into());
            made.set("attention.key_length", dim.into());
        };
        check("llama", set, &[&format!("attention.key_length = {dim}: heads of a multiple of 4 up to 512")]);
    }
    check_key("llama", "embedding_length", 30u32, &["= 30", "multiple of 4"]);
    check_key("llama", "feed_forward_length", 46u32, &["= 46", "multiple of 4"]);
    check_key("qwen3moe", "expert_feed_forward_length", 46u32, &["= 46", "multiple of 4"]);
}

#[test]
fn what_llama4_does_not_know() {
    check_key("llama4", "expert_gating_func", 1u32, &["= 1", "the sigmoid"]);
    check_key("llama4", "attention.sliding_window", 0u32, &["= 0: a number from 1 to"]);
    check_key("llama4", "interleave_moe_layer_step", 0u32, &["= 0: a number from 1 to"]);
    // Every layer a mixture, in a file whose first layer is dense.
    check(
        "llama4",
        |made| made.set("interleave_moe_layer_step", 1u32.into()),
        &["blk.0.ffn_gate_exps.weight is missing"],
    );
}

#[test]
fn what_step35_does_not_know() {
    let three = Value::Array(Array::U32(vec![4, 4, 4]));
    check_key("step35", "attention.head_count", three.clone(), &["an array of 3", "there are 2 layers"]);
    check_key("step35", "attention.head_count_kv", three, &["an array of 3", "there are 2 layers"]);
    let pattern = |n: usize| Value::Array(Array::Bool(vec![true; n]));
    check_key("step35", "attention.sliding_window_pattern", pattern(1), &["an array of 1", "there are 2 layers"]);
    check_key("step35", "attention.sliding_window", 0u32, &["= 0: a number from 1 to"]);
    check_key("step35", "moe_every_n_layers", 2u32, &["= 2", "every layer"]);
    check_key("step35", "expert_gating_func", 1u32, &["= 1", "the sigmoid"]);
    check_key("step35", "rope.dimension_count", 6u32, &["= 6", "a multiple of 4"]);
    for limit in [-1.0, f32::NAN, f32::INFINITY] {
        check_key("step35", "swiglu_clamp_exp", vec![0.0, limit], &["a positive number, or 0 for none"]);
    }
    check_key("step35", "swiglu_clamp_shexp", vec![1.0f32], &["an array of 1", "there are 2 layers"]);
    // Heads that the tensors do not have.
    let heads = Value::Array(Array::U32(vec![4, 4]));
    check("step35", |made| made.set("attention.head_count", heads), &["blk.1.attn_q.weight", "[32, 64]", "[32, 32]"]);
    let none = Value::Array(Array::U32(vec![4, 0]));
    check_key("step35", "attention.head_count", none, &["= 0: a number from 1 to"]);
}

#[test]
fn what_gemma4_does_not_know() {
    let three = Value::Array(Array::U32(vec![2, 2, 2]));
    for key in ["attention.head_count", "attention.head_count_kv", "feed_forward_length"] {
        check_key("gemma4", key, three.clone(), &["an array of 3", "there are 2 layers"]);
    }
    let pattern = Value::Array(Array::Bool(vec![true; 3]));
    check_key("gemma4", "attention.sliding_window_pattern", pattern, &["an array of 3", "there are 2 layers"]);
    check_key("gemma4", "attention.sliding_window", 0u32, &["= 0: a number from 1 to"]);
    check_key("gemma4", "attention.key_length_swa", 516u32, &["= 516", "up to 512"]);
    check_key("gemma4", "attention.value_length_swa", 4u32, &["= 4", "keys of 8"]);
    check_key("gemma4", "attention.shared_kv_layers", 2u32, &["= 2", "there are 2 layers"]);
    check_key("gemma4", "attention.shared_kv_layers", 1u32, &["= 1", "layer 1's kind"]);
    check_key("gemma4", "final_logit_softcapping", -30f32, &["a positive number"]);
    check_key("gemma4", "embedding_length_per_layer_input", 6u32, &["= 6", "multiple of 4"]);
    let inputs = |made: &mut Made| made.set("embedding_length_per_layer_input", 8u32.into());
    check("gemma4", inputs, &["per_layer_proj_norm.weight is missing"]);
    // A layer that sees all, which the tensors hold as one with a window.
    let none = Value::Array(Array::Bool(vec![false, false]));
    check("gemma4", |made| made.set("attention.sliding_window_pattern", none), &["blk.0.attn_q.weight", "[32, 32]"]);
}

#[test]
fn routers_that_no_model_has() {
    check_key("glm4moe", "expert_gating_func", 1u32, &["= 1", "the sigmoid"]);
    check_key("glm4moe", "expert_gating_func", 9u32, &["= 9", "the sigmoid"]);
    check_key("glm4moe", "expert_group_count", 4u32, &["= 4", "6 experts cannot be in groups"]);
    check_key("glm4moe", "expert_group_count", 6u32, &["= 6", "6 experts cannot be in groups"]);
    check_key("glm4moe", "expert_group_count", 1u64 << 40, &["= 1099511627776"]);
    check_key("glm4moe", "expert_group_used_count", 2u32, &["= 2", "1 groups"]);
    check_key("glm4moe", "expert_weights_scale", 0f32, &["a positive number is needed"]);
    let shared = |made: &mut Made| made.set("expert_shared_count", 3u32.into());
    check("glm4moe", shared, &["ffn_gate_shexp.weight", "[32, 48]", "[32, 144]"]);
    check_key("glm4moe", "nextn_predict_layers", 2u32, &["= 2", "there are 2 blocks"]);
    check_key("glm4moe", "nextn_predict_layers", u64::MAX, &["18446744073709551615"]);
    let few = |made: &mut Made| {
        made.set("expert_used_count", 4u32.into());
        made.set("expert_group_count", 2u32.into());
        made.set("expert_group_used_count", 1u32.into());
    };
    check("glm4moe", few, &["glm4moe.expert_group_used_count = 1", "2 groups of 3 experts", "uses 4"]);
}

#[test]
fn delta_nets_that_no_kernel_takes() {
    for key in ["ssm.conv_kernel", "ssm.state_size", "ssm.group_count", "ssm.time_step_rank", "ssm.inner_size"] {
        check_key("qwen3next", key, 0u32, &["= 0: a number from 1 to 16777216"]);
        check_key("qwen35", key, 1u64 << 40, &["= 1099511627776"]);
    }
    check_key("qwen35", "full_attention_interval", 0u32, &["= 0: a number from 1 to"]);
    check_key("qwen3next", "ssm.conv_kernel", 17u32, &["= 17", "at most 16"]);
    check_key("qwen3next", "ssm.state_size", 10u32, &["= 10", "heads of 10: a multiple of 4 up to 128"]);
    check_key("qwen3next", "ssm.state_size", 256u32, &["= 256", "heads of 256: a multiple of 4 up to 128"]);
    check_key("qwen35moe", "ssm.inner_size", 30u32, &["= 30", "4 value heads cannot share it"]);
    check_key("qwen35moe", "ssm.inner_size", 1024u32, &["= 1024", "heads of 256: a multiple of 4 up to 128"]);
    check_key("qwen35moe", "ssm.group_count", 3u32, &["= 3", "4 value heads cannot share them"]);
    check_key("qwen35moe", "nextn_predict_layers", 2u32, &["= 2", "there are 2 blocks"]);
    check_key("qwen35", "attention.recurrent_layers", vec![true], &["1 flags", "2 are needed"]);
    check_key("qwen35", "attention.recurrent_layers", 3u32, &["array of bool"]);
    // Tensors that say otherwise.
    let short = |made: &mut Made| made.set("ssm.conv_kernel", 3u32.into());
    check("qwen35", short, &["blk.0.ssm_conv1d.weight", "[4, 64]", "[3, 64]"]);
    let all = |made: &mut Made| made.set("attention.recurrent_layers", vec![true, true].into());
    check("qwen35", all, &["tensor blk.1.attn_qkv.weight is missing"]);
    let more = |made: &mut Made| made.set("ssm.time_step_rank", 8u32.into());
    check("qwen3next", more, &["blk.0.ssm_ba.weight", "[32, 8]", "[32, 16]"]);
    let grows = |made: &mut Made| {
        let bytes = [-0.5f32, -1.0, 0.25, -1.0].iter().flat_map(|a| a.to_le_bytes()).collect();
        made.put(Tensor { name: "blk.0.ssm_a".into(), dims: vec![4], ggml_type: 0, bytes });
    };
    check("qwen35", grows, &["blk.0.ssm_a holds 0.25", "below zero"]);
}

#[test]
fn latents_that_no_model_has() {
    for key in ["attention.q_lora_rank", "attention.kv_lora_rank", "attention.key_length_mla", "rope.dimension_count"] {
        check_key("deepseek2", key, 0u32, &["= 0: a number from 1 to"]);
        check_key("deepseek2", key, 1u64 << 40, &["= 1099511627776"]);
        check_key("deepseek2", key, 6u32, &["= 6", "multiple of 4"]);
    }
    check_key("deepseek2", "attention.kv_lora_rank", 1020u32, &["= 1020", "with 8 rotated lanes at most 1024"]);
    check_key("deepseek2", "attention.key_length", 576u32, &["= 576", "make it 24"]);
    check_key("deepseek2", "attention.value_length", 12u32, &["= 12", "make it 16"]);
    check_key("deepseek2", "rope.dimension_count", 20u32, &["= 20", "a number below 20, the head's size"]);
    let other = |key: &'static str| move |made: &mut Made| made.set(key, 24u32.into());
    check("deepseek2", other("attention.q_lora_rank"), &["blk.0.attn_q_a.weight", "[32, 20]", "[32, 24]"]);
    check("deepseek2", other("attention.key_length_mla"), &["blk.0.attn_q_b.weight", "[20, 80]", "[20, 96]"]);
    check("deepseek2", other("attention.value_length_mla"), &["blk.0.attn_v_b.weight", "[16, 12, 4]", "[16, 24, 4]"]);
    check_key("deepseek2", "nextn_predict_layers", 2u32, &["= 2", "there are 2 blocks"]);
}

#[test]
fn compressed_keys_that_no_model_has() {
    let array = |values: &[u32]| Value::Array(Array::U32(values.to_vec()));
    check_key("deepseek4", "attention.compress_ratios", array(&[4, 8]), &["= 8", "halogen knows 0, 4 and 128"]);
    check_key("deepseek4", "attention.compress_ratios", array(&[4]), &["an array of 1", "there are 2 layers"]);
    check_key("deepseek4", "attention.head_count_kv", 2u32, &["= 2", "halogen runs 1 here"]);
    check_key("deepseek4", "hyper_connection.count", 2u32, &["= 2", "halogen runs 4 here, residual streams"]);
    check_key("deepseek4", "hyper_connection.epsilon", 0f32, &["= 0", "a positive number"]);
    check_key("deepseek4", "expert_gating_func", 2u32, &["= 2", "the square root of softplus"]);
    check_key("deepseek4", "embedding_length_out", 32u32, &["= 32", "halogen runs 128 here"]);
    check_key("deepseek4", "attention.output_group_count", 3u32, &["= 3", "4 heads cannot be in so many groups"]);
    check_key("deepseek4", "hash_layer_count", 3u32, &["= 3", "there are 2 layers"]);
    check_key("deepseek4", "rope.dimension_count", 6u32, &["= 6", "a multiple of 4"]);
    check_key("deepseek4", "swiglu_clamp_exp", vec![1.0f32], &["an array of 1", "there are 2 layers"]);
    let index = "attention.indexer.key_length";
    check_key("deepseek4", index, 1028u32, &["= 1028", "a size from 4"]);
    check_key("deepseek4", "attention.indexer.top_k", 70_000u32, &["= 70000", "at most 65536"]);
    for key in [
        "attention.q_lora_rank",
        "attention.output_lora_rank",
        "attention.sliding_window",
        "attention.indexer.head_count",
        "attention.compress_rope_freq_base",
        "hyper_connection.sinkhorn_iterations",
    ] {
        match key.ends_with("base") {
            true => check_key("deepseek4", key, 0f32, &["= 0", "a positive number"]),
            false => check_key("deepseek4", key, 0u32, &["= 0: a number from 1 to"]),
        }
    }
    let other = |key: &'static str| move |made: &mut Made| made.set(key, 24u32.into());
    check("deepseek4", other(index), &["blk.0.indexer_compressor_kv.weight", "[32, 24]", "[32, 48]"]);
    check("deepseek4", other("attention.output_lora_rank"), &["blk.0.attn_output_a.weight", "[16, 24]", "[16, 48]"]);
    let ratios = |made: &mut Made| made.set("attention.compress_ratios", array(&[4, 4]));
    check("deepseek4", ratios, &["blk.1.attn_compressor_kv.weight", "[32, 8]", "[32, 16]"]);
}

#[test]
fn ids_of_experts_that_are_not_there() {
    for id in [6i32, -1] {
        let strange = |made: &mut Made| {
            let table = made.tensors.iter_mut().find(|t| t.name == "blk.0.ffn_gate_tid2eid.weight").expect("a table");
            table.bytes[4 * 7..4 * 8].copy_from_slice(&id.to_le_bytes());
        };
        let said = format!("row 3 holds the id {id}");
        check("deepseek4", strange, &["blk.0.ffn_gate_tid2eid.weight", &said, "from 0 to below 6"]);
    }
    let floats = |made: &mut Made| {
        let table = made.tensors.iter_mut().find(|t| t.name == "blk.0.ffn_gate_tid2eid.weight").expect("a table");
        table.ggml_type = Format::F32.ggml();
    };
    check("deepseek4", floats, &["blk.0.ffn_gate_tid2eid.weight", "f32", "a table of ids; it reads i32"]);
}

#[test]
fn indexers_that_no_model_has() {
    for key in ["attention.indexer.head_count", "attention.indexer.key_length", "attention.indexer.top_k"] {
        check_key("glm-dsa", key, 0u32, &["= 0: a number from 1 to"]);
        check_key("glm-dsa", key, 1u64 << 40, &["= 1099511627776"]);
    }
    check_key("glm-dsa", "attention.indexer.key_length", 4u32, &["= 4", "a size from 8"]);
    check_key("glm-dsa", "attention.indexer.key_length", 1028u32, &["= 1028", "to 1024"]);
    check_key("glm-dsa", "attention.indexer.top_k", 65_537u32, &["= 65537", "at most 65536"]);
    check_key("glm-dsa", "attention.indexer.types", vec![true], &["1 flags", "layer 1 needs one"]);
    check_key("glm-dsa", "attention.indexer.types", vec![false, true], &["= false", "the first layer"]);
    let heads = |made: &mut Made| made.set("attention.indexer.head_count", 8u32.into());
    check("glm-dsa", heads, &["blk.0.indexer.proj.weight", "[32, 4]", "[32, 8]"]);
    // A layer without an indexer has no tensors of one.
    let shared = |made: &mut Made| made.set("attention.indexer.types", vec![true, false].into());
    check("glm-dsa", shared, &["blk.1.indexer."]);
}

#[test]
fn numbers_that_no_model_has() {
    for value in [0f32, -1.0, f32::NAN, f32::INFINITY] {
        check_key("llama", "attention.layer_norm_rms_epsilon", value, &["a positive number is needed"]);
        check_key("llama", "rope.freq_base", value, &["a positive number is needed"]);
    }
    check_key("llama", "rope.scaling.type", "longrope9", &["longrope9", "none, linear and yarn"]);
    let scaled = |made: &mut Made| {
        made.set("rope.scaling.type", "linear".into());
        made.set("rope.scaling.factor", 0f32.into());
    };
    check("llama", scaled, &["llama.rope.scaling.factor = 0: a positive number"]);
    let zeros = |made: &mut Made| {
        made.put(Tensor { name: "rope_freqs.weight".into(), dims: vec![4], ggml_type: 0, bytes: vec![0; 16] });
    };
    check("llama", zeros, &["rope_freqs.weight holds 0"]);
}

#[test]
fn vocabularies_that_do_not_fit() {
    check("llama", |made| made.vocabulary(95), &["token_embd.weight", "96", "tokenizer.ggml.tokens", "95"]);
    check("llama", |made| made.vocabulary(97), &["token_embd.weight", "96", "97"]);
    let eos = |made: &mut Made| made.metadata.insert("tokenizer.ggml.eos_token_id", 96u32.into());
    check("llama", eos, &["tokenizer.ggml.eos_token_id = 96", "vocabulary of 96 tokens"]);
    let pre = |made: &mut Made| {
        made.metadata.insert("tokenizer.ggml.model", "gpt2".into());
        made.metadata.insert("tokenizer.ggml.pre", "nonesuch".into());
    };
    check("llama", pre, &["tokenizer.ggml.pre = \"nonesuch\"", "qwen2", "llama-bpe"]);
    let kind = |made: &mut Made| made.metadata.insert("tokenizer.ggml.model", "rwkv".into());
    check("llama", kind, &["tokenizer.ggml.model = \"rwkv\"", "gpt2, llama"]);
    let none = |made: &mut Made| made.metadata.insert("tokenizer.ggml.tokens", Strings::from_iter([""; 0]).into());
    check("llama", none, &["tokenizer.ggml.tokens is missing"]);
    let scores = |made: &mut Made| made.metadata.insert("tokenizer.ggml.scores", vec![0f32; 95].into());
    check("llama", scores, &["tokenizer.ggml.scores: 95 entries for 96 tokens"]);
}

#[test]
fn a_grid_that_no_device_has() {
    // 70,000 heads: the file is whole, the dispatch is not possible.
    let sizes = Sizes { layers: 1, heads: 70_000, kv_heads: 1, head_dim: 4, hidden: 4, ff: 4, vocabulary: 4, ..TINY };
    let model = Made::new("llama", Format::F16, &sizes).load().expect("a model");
    let options = SessionOptions { chunk: 4, ..SessionOptions::default() };
    let error = Session::new(&model, &options).err().expect("too many heads").to_string();
    assert!(error.contains("heads") && error.contains("70002") && error.contains("65535"), "{error}");
}

#[test]
fn a_load_that_is_cancelled() {
    let gguf = made("llama").gguf();
    let mut seen = Vec::new();
    let load = Model::load(gpu(), &gguf, |progress| {
        assert_eq!(progress.total, gguf.data_bytes());
        seen.push(progress.bytes);
        seen.len() < 3
    });
    let error = pollster::block_on(load).err().expect("cancelled").to_string();
    assert!(error.contains("cancelled"), "{error}");
    assert_eq!(seen.len(), 3);
    assert!(seen.is_sorted_by(|a, b| a < b));
}
