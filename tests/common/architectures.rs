//! Made-up models of architectures that differ from llama's in more than a line: what [`Made::new`] makes, changed.

use super::{HYBRIDS, Made, Noise, Sizes, Tensor};
use halogen::formats::Format;
use halogen::gguf::{Array, Value};

impl Made {
    /// Turns the dense model that `new` made into one of its architecture, where there is more to it.
    pub(super) fn specialise(&mut self, format: Format, s: &Sizes) {
        match self.architecture().as_str() {
            "llama4" => self.llama4(format, s),
            "step35" => self.step35(format, s),
            "gemma4" => self.gemma4(format, s),
            "deepseek4" => self.deepseek4(format, s),
            hybrid if HYBRIDS.contains(&hybrid) => self.hybrid(hybrid, format, s),
            _ => {}
        }
    }

    fn layer_matrix(&mut self, layer: usize, what: &str, dims: &[usize], format: Format) {
        self.matrix(&format!("blk.{layer}.{what}.weight"), dims, format, 2.0 / (dims[0] as f32).sqrt());
    }

    fn mixture_keys(&mut self, s: &Sizes) {
        self.set("expert_count", (s.experts as u32).into());
        self.set("expert_used_count", (s.used as u32).into());
        self.set("expert_feed_forward_length", (s.ff as u32).into());
    }

    /// Experts, and a shared one, in place of a layer's dense MLP.
    fn experts_with_shared(&mut self, layer: usize, format: Format, s: &Sizes) {
        self.layer_matrix(layer, "ffn_gate_inp", &[s.hidden, s.experts], Format::F32);
        for (what, dims) in [("gate", [s.hidden, s.ff]), ("up", [s.hidden, s.ff]), ("down", [s.ff, s.hidden])] {
            self.remove(&format!("blk.{layer}.ffn_{what}.weight"));
            self.layer_matrix(layer, &format!("ffn_{what}_exps"), &[dims[0], dims[1], s.experts], format);
            self.layer_matrix(layer, &format!("ffn_{what}_shexp"), &dims, format);
        }
    }

    /// A dense layer that sees all, then windows of 16 positions with as many heads again; limits on the last layer.
    fn step35(&mut self, format: Format, s: &Sizes) {
        self.mixture_keys(s);
        let windowed = |layer: usize| layer > 0;
        let heads = |layer: usize| s.heads * (1 + usize::from(windowed(layer)));
        let counts = |of: &dyn Fn(usize) -> usize| Array::U32((0..s.layers).map(|i| of(i) as u32).collect());
        let limits: Vec<f32> = (0..s.layers).map(|i| if i + 1 == s.layers { 0.4 } else { 0.0 }).collect();
        self.set("attention.head_count", Value::Array(counts(&heads)));
        self.set("attention.head_count_kv", Value::Array(counts(&|_| s.kv_heads)));
        self.set("attention.sliding_window", 16u32.into());
        self.set("attention.sliding_window_pattern", Value::Array(Array::Bool((0..s.layers).map(windowed).collect())));
        self.set("rope.freq_base_swa", 5_000f32.into());
        self.set("leading_dense_block_count", 1u32.into());
        self.set("expert_shared_feed_forward_length", (s.ff as u32).into());
        self.set("swiglu_clamp_exp", limits.clone().into());
        self.set("swiglu_clamp_shexp", limits.into());
        for layer in 0..s.layers {
            let q = heads(layer) * s.head_dim;
            self.layer_matrix(layer, "attn_q", &[s.hidden, q], format);
            self.layer_matrix(layer, "attn_gate", &[s.hidden, heads(layer)], format);
            self.layer_matrix(layer, "attn_output", &[q, s.hidden], format);
            for norm in ["attn_q_norm", "attn_k_norm"] {
                self.vector(&format!("blk.{layer}.{norm}.weight"), s.head_dim, 1.0);
            }
            if layer >= 1 {
                self.experts_with_shared(layer, format, s);
                self.vector(&format!("blk.{layer}.exp_probs_b.bias"), s.experts, 0.0);
            }
        }
    }

    /// Experts beside the dense MLPs; windows of 16 positions, then a layer that sees all, of heads twice as large whose
    /// values are their keys.
    fn gemma4(&mut self, format: Format, s: &Sizes) {
        self.mixture_keys(s);
        let windowed = |layer: usize| layer.is_multiple_of(2);
        self.set("attention.key_length", (2 * s.head_dim as u32).into());
        self.set("attention.value_length", (2 * s.head_dim as u32).into());
        self.set("rope.dimension_count", (2 * s.head_dim as u32).into());
        for key in ["attention.key_length_swa", "attention.value_length_swa", "rope.dimension_count_swa"] {
            self.set(key, (s.head_dim as u32).into());
        }
        self.set("attention.head_count_kv", Value::Array(Array::U32(vec![s.kv_heads as u32; s.layers])));
        self.set("attention.sliding_window", 16u32.into());
        self.set("attention.sliding_window_pattern", Value::Array(Array::Bool((0..s.layers).map(windowed).collect())));
        self.set("final_logit_softcapping", 30f32.into());
        self.vector("rope_freqs.weight", s.head_dim, 1.0);
        for layer in 0..s.layers {
            let dim = if windowed(layer) { s.head_dim } else { 2 * s.head_dim };
            self.layer_matrix(layer, "attn_q", &[s.hidden, s.heads * dim], format);
            self.layer_matrix(layer, "attn_k", &[s.hidden, s.kv_heads * dim], format);
            self.layer_matrix(layer, "attn_output", &[s.heads * dim, s.hidden], format);
            if !windowed(layer) {
                self.remove(&format!("blk.{layer}.attn_v.weight"));
            }
            self.layer_matrix(layer, "ffn_gate_inp", &[s.hidden, s.experts], Format::F32);
            self.layer_matrix(layer, "ffn_gate_up_exps", &[s.hidden, 2 * s.ff, s.experts], format);
            self.layer_matrix(layer, "ffn_down_exps", &[s.ff, s.hidden, s.experts], format);
            let norms =
                ["post_attention_norm", "post_ffw_norm", "post_ffw_norm_1", "post_ffw_norm_2", "pre_ffw_norm_2"];
            let vectors = norms.map(|norm| (format!("{norm}.weight"), s.hidden)).into_iter().chain([
                ("attn_q_norm.weight".into(), dim),
                ("attn_k_norm.weight".into(), dim),
                ("ffn_gate_inp.scale".into(), s.hidden),
                ("ffn_down_exps.scale".into(), s.experts),
                ("layer_output_scale.weight".into(), 1),
            ]);
            vectors.for_each(|(name, len)| self.vector(&format!("blk.{layer}.{name}"), len, 1.0));
        }
    }

    /// Entries of 4 positions in layers of even number, of 128 in the others; windows of 16; the first layer's experts by the
    /// token's id.
    fn deepseek4(&mut self, format: Format, s: &Sizes) {
        let groups = if s.heads.is_multiple_of(2) { 2 } else { 1 };
        let [q_rank, out_rank, index_heads, index_dim] = [20, 12, 4, 12];
        self.mixture_keys(s);
        let ratio = |layer: usize| if layer.is_multiple_of(2) { 4 } else { 128 };
        for (key, value) in [
            ("attention.head_count_kv", 1),
            ("attention.q_lora_rank", q_rank),
            ("attention.sliding_window", 16),
            ("attention.output_group_count", groups),
            ("attention.output_lora_rank", out_rank),
            ("attention.indexer.head_count", index_heads),
            ("attention.indexer.key_length", index_dim),
            ("attention.indexer.top_k", 5),
            ("rope.dimension_count", 4),
            ("expert_gating_func", 4),
            ("hyper_connection.count", 4),
            ("hyper_connection.sinkhorn_iterations", 20),
            ("hash_layer_count", 1),
        ] {
            self.set(key, (value as u32).into());
        }
        self.set("attention.compress_rope_freq_base", 40_000f32.into());
        self.set("hyper_connection.epsilon", 1e-6f32.into());
        self.set("attention.compress_ratios", Value::Array(Array::U32((0..s.layers).map(ratio).collect())));
        self.set("swiglu_clamp_exp", vec![0.5f32; s.layers].into());
        self.set("swiglu_clamp_shexp", vec![0.5f32; s.layers].into());
        self.hyper_connection("output_hc", 4, 1, s);
        for layer in 0..s.layers {
            for what in ["q", "k", "v", "output"] {
                self.remove(&format!("blk.{layer}.attn_{what}.weight"));
            }
            self.hyper_connection(&format!("blk.{layer}.hc_attn"), 24, 3, s);
            self.hyper_connection(&format!("blk.{layer}.hc_ffn"), 24, 3, s);
            let q = s.heads * s.head_dim;
            self.layer_matrix(layer, "attn_q_a", &[s.hidden, q_rank], format);
            self.layer_matrix(layer, "attn_q_b", &[q_rank, q], format);
            self.layer_matrix(layer, "attn_kv", &[s.hidden, s.head_dim], format);
            self.layer_matrix(layer, "attn_output_a", &[q / groups, groups * out_rank], format);
            self.layer_matrix(layer, "attn_output_b", &[groups * out_rank, s.hidden], format);
            let norms = [("attn_q_a_norm", q_rank), ("attn_kv_a_norm", s.head_dim), ("attn_sinks", s.heads)];
            norms.into_iter().for_each(|(what, len)| self.vector(&format!("blk.{layer}.{what}.weight"), len, 1.0));
            self.compressor(layer, "attn", s.head_dim, ratio(layer) as usize, format, s);
            if ratio(layer) == 4 {
                self.compressor(layer, "indexer", index_dim, 4, format, s);
                self.layer_matrix(layer, "indexer.attn_q_b", &[q_rank, index_heads * index_dim], format);
                self.layer_matrix(layer, "indexer.proj", &[s.hidden, index_heads], Format::F32);
            }
            self.experts_with_shared(layer, format, s);
            match layer {
                0 => self.expert_ids(layer, s),
                _ => self.vector(&format!("blk.{layer}.exp_probs_b.bias"), s.experts, 0.0),
            }
        }
    }

    fn hyper_connection(&mut self, prefix: &str, rows: usize, scales: usize, s: &Sizes) {
        let columns = 4 * s.hidden;
        self.matrix(&format!("{prefix}_fn.weight"), &[columns, rows], Format::F32, 1.0 / (columns as f32).sqrt());
        self.vector(&format!("{prefix}_base.weight"), rows, 0.0);
        self.vector(&format!("{prefix}_scale.weight"), scales, 1.0);
    }

    fn compressor(&mut self, layer: usize, what: &str, dim: usize, ratio: usize, format: Format, s: &Sizes) {
        let width = if ratio == 4 { 2 * dim } else { dim };
        for part in ["kv", "gate"] {
            self.layer_matrix(layer, &format!("{what}_compressor_{part}"), &[s.hidden, width], format);
        }
        self.layer_matrix(layer, &format!("{what}_compressor_ape"), &[width, ratio], Format::F32);
        self.vector(&format!("blk.{layer}.{what}_compressor_norm.weight"), dim, 1.0);
    }

    /// The experts of each token's id.
    fn expert_ids(&mut self, layer: usize, s: &Sizes) {
        let mut noise = Noise(7);
        let first: Vec<u32> = (0..s.vocabulary).map(|_| (noise.word() % s.experts as u64) as u32).collect();
        let ids = first.iter().flat_map(|first| (0..s.used).map(move |i| (first + i as u32) % s.experts as u32));
        self.put(Tensor {
            name: format!("blk.{layer}.ffn_gate_tid2eid.weight"),
            dims: vec![s.used as u64, s.vocabulary as u64],
            ggml_type: 26,
            bytes: ids.flat_map(u32::to_le_bytes).collect(),
        });
    }

    /// Maverick's kind, of which every other layer is dense, with chunks of 16 positions.
    fn llama4(&mut self, format: Format, s: &Sizes) {
        self.mixture_keys(s);
        self.set("interleave_moe_layer_step", 2u32.into());
        self.set("attention.sliding_window", 16u32.into());
        for layer in (1..s.layers).step_by(2) {
            self.experts_with_shared(layer, format, s);
        }
    }

    /// Delta nets of two key heads and four value heads of 8 in the layers of even number, gated attention in the others;
    /// a shared expert beside the mixtures.
    fn hybrid(&mut self, architecture: &str, format: Format, s: &Sizes) {
        for (key, value) in [
            ("full_attention_interval", 2u32),
            ("ssm.conv_kernel", 4),
            ("ssm.state_size", 8),
            ("ssm.group_count", 2),
            ("ssm.time_step_rank", 4),
            ("ssm.inner_size", 32),
        ] {
            self.set(key, value.into());
        }
        for layer in 0..s.layers {
            if architecture != "qwen35" {
                self.experts_with_shared(layer, format, s);
                self.layer_matrix(layer, "ffn_gate_inp_shexp", &[s.hidden, 1], Format::F32);
            }
            if layer % 2 == 0 {
                self.delta_net(architecture, layer, format, s);
            } else {
                self.layer_matrix(layer, "attn_q", &[s.hidden, 2 * s.heads * s.head_dim], format);
                for name in ["attn_q_norm", "attn_k_norm"] {
                    self.vector(&format!("blk.{layer}.{name}.weight"), s.head_dim, 1.0);
                }
            }
        }
        if architecture != "qwen35" {
            self.mixture_keys(s);
            self.set("expert_shared_feed_forward_length", (s.ff as u32).into());
        }
    }

    /// A delta net in place of the layer's attention.
    fn delta_net(&mut self, architecture: &str, layer: usize, format: Format, s: &Sizes) {
        for what in ["q", "k", "v", "output", "q_norm", "k_norm"] {
            self.remove(&format!("blk.{layer}.attn_{what}.weight"));
        }
        let [heads, inner, channels] = [4, 32, 64];
        self.layer_matrix(layer, "attn_qkv", &[s.hidden, channels], format);
        self.layer_matrix(layer, "attn_gate", &[s.hidden, inner], format);
        if architecture == "qwen3next" {
            self.layer_matrix(layer, "ssm_ba", &[s.hidden, 2 * heads], format);
        } else {
            self.layer_matrix(layer, "ssm_beta", &[s.hidden, heads], format);
            self.layer_matrix(layer, "ssm_alpha", &[s.hidden, heads], format);
        }
        self.layer_matrix(layer, "ssm_out", &[inner, s.hidden], format);
        self.layer_matrix(layer, "ssm_conv1d", &[4, channels], Format::F32);
        let name = |what: &str| format!("blk.{layer}.{what}");
        self.vector(&name("ssm_a"), heads, -0.5);
        self.vector(&name("ssm_dt.bias"), heads, 0.0);
        self.vector(&name("ssm_norm.weight"), inner / heads, 1.0);
    }
}
