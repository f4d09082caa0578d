//! `halogen show`: what is in a file.

use super::device::parse_bytes;
use super::output::Style;
use super::placement::costs;
use super::{human, model, output, success};
use anyhow::Result;
use halogen::SessionOptions;
use halogen::formats::Format;
use halogen::gguf::{Array, Gguf, TensorInfo, Value};
use halogen::gpu::adapters;
use halogen::memory::{Extent, KvCache, KvFormat, Placement, expert_stacks};
use halogen::ops::shards_at_once;
use serde_json::{Map, json};
use std::fmt::Write;
use std::io;
use std::process::ExitCode;

/// Show what is in a model's file
#[derive(clap::Args)]
#[command(after_help = "\
Active bytes are what one token reads: of experts those that are used, of the embedding one row.")]
pub struct Args {
    /// A .gguf file, or `demo`: the embedded model (also where none is named)
    model: Option<String>,

    /// Also what comes and goes where weights may take so much of the device, and what it costs a step
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    gpu_memory: Option<u64>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<ExitCode> {
    let gguf = model::open(args.model.as_deref())?;
    let placement = args.gpu_memory.map(|bytes| Placement::within(&gguf, bytes)).transpose()?;
    if args.json {
        let mut all = json(&gguf);
        all["placement"] = json!(placement);
        output::print_json(&all)?;
    } else {
        let mut all = text(&gguf, Style::of(&io::stdout()));
        for (what, cost) in placement.iter().flat_map(|placement| costs(&gguf, placement)) {
            let _ = writeln!(all, "  {what:<8}  {cost}");
        }
        output::print(format_args!("{all}"))?;
    }
    success()
}

/// Experts of a layer, and how many of them a token uses.
fn experts(gguf: &Gguf) -> Option<(u64, u64)> {
    let read = |key: &str| gguf.metadata().u64(&format!("{}.{key}", gguf.architecture().ok()?)).ok()?;
    let (count, used) = (read("expert_count")?, read("expert_used_count")?);
    (count > 0 && used <= count).then_some((count, used))
}

/// Whether a tensor is of a block after the trunk, which predicts further tokens and is not run.
fn passed_over(gguf: &Gguf, tensor: &TensorInfo) -> bool {
    let read = |key: &str| gguf.metadata().u64(&format!("{}.{key}", gguf.architecture().ok()?)).ok()?;
    let block = || tensor.name.strip_prefix("blk.")?.split('.').next()?.parse::<u64>().ok();
    let trunk = || Some(read("block_count")?.saturating_sub(read("nextn_predict_layers")?));
    block().zip(trunk()).is_some_and(|(block, trunk)| block >= trunk)
}

/// Bytes of a tensor that one token reads.
fn active_bytes(gguf: &Gguf, tensor: &TensorInfo) -> u64 {
    if passed_over(gguf, tensor) {
        return 0;
    }
    if tensor.name.ends_with("_exps.weight") || tensor.name.ends_with("_exps.bias") {
        let (count, used) = experts(gguf).unwrap_or((1, 1));
        return (u128::from(tensor.bytes) * u128::from(used) / u128::from(count)) as u64;
    }
    // Without an output matrix the embedding is the output matrix, too.
    if tensor.name == "token_embd.weight" && gguf.tensor("output.weight").is_some() {
        return tensor.bytes / rows(tensor);
    }
    tensor.bytes
}

/// A stack of experts as a device holds it.
struct Stack {
    format: Format,
    experts: u64,
    expert_bytes: u64,
}

impl Stack {
    /// Shards where one may have `limit` bytes, and how many a dispatch reads where kernels bind `most` storage buffers.
    fn shards(&self, limit: u64, most: u32) -> (u64, u64) {
        let each = (limit / self.expert_bytes.max(1)).max(1);
        // Of the kernels of one token: input, output, gates or norm, the chosen experts, the table.
        (self.experts.div_ceil(each), shards_at_once(most, self.format, 5) as u64)
    }
}

/// What a layer's keys and values come to at the whole context in f16.
struct Caches {
    positions: usize,
    /// Of the layer that has the most.
    shards: usize,
    /// More than where each is in one shard.
    dispatches: usize,
}

/// Of a model that halogen knows, where a shard may have `limit` bytes.
fn caches(gguf: &Gguf, limit: u64) -> Option<Caches> {
    let shape = halogen::models::shape(gguf).ok()?;
    let extent = Extent { positions: shape.context, beyond: SessionOptions::default().chunk };
    let [shards, dispatches] = KvCache::shards(&shape.keeps, extent, KvFormat::F16, limit);
    Some(Caches { positions: shape.context, shards, dispatches })
}

/// Gate and up are one stack where they are of one format.
fn largest_stack(gguf: &Gguf) -> Option<Stack> {
    let stack = |t: &TensorInfo| {
        let format = Format::from_ggml(t.ggml_type)?;
        let up = t.name.replace("ffn_gate_exps", "ffn_up_exps");
        let joined = up != t.name && gguf.tensor(&up).is_some_and(|up| up.ggml_type == t.ggml_type);
        let row_bytes = format.device_row_bytes(*t.dims.first()? as usize) as u64;
        let expert_bytes = row_bytes.checked_mul(*t.dims.get(1)?)?.checked_mul(1 + u64::from(joined))?;
        Some(Stack { format, experts: *t.dims.get(2)?, expert_bytes })
    };
    expert_stacks(gguf).filter_map(stack).max_by_key(|s| u128::from(s.experts) * u128::from(s.expert_bytes))
}

/// Bytes of a shard and storage buffers of a kernel, of the adapter that is used where none is named.
fn limits() -> (u64, u32, String) {
    match pollster::block_on(adapters()).into_iter().find(|a| a.unusable.is_none()) {
        Some(adapter) => (adapter.caps.max_shard, adapter.caps.storage_buffers, adapter.info.name),
        None => {
            let limits = wgpu::Limits::default();
            let (bytes, buffers) =
                (limits.max_storage_buffer_binding_size, limits.max_storage_buffers_per_shader_stage);
            (bytes, buffers, "WebGPU's default limits".into())
        }
    }
}

fn rows(tensor: &TensorInfo) -> u64 {
    tensor.dims.get(1).copied().unwrap_or(1).max(1)
}

/// A tensor's shape, outermost first.
fn shape(tensor: &TensorInfo) -> Vec<u64> {
    tensor.dims.iter().rev().copied().collect()
}

/// Formats with how many tensors and bytes they hold, the most bytes first.
fn formats(gguf: &Gguf) -> Vec<(&'static str, usize, u64)> {
    let mut formats: Vec<(&str, usize, u64)> = Vec::new();
    for tensor in gguf.tensors() {
        let name = tensor.type_name();
        let at = formats.iter().position(|(n, ..)| *n == name).unwrap_or_else(|| {
            formats.push((name, 0, 0));
            formats.len() - 1
        });
        formats[at].1 += 1;
        formats[at].2 += tensor.bytes;
    }
    formats.sort_by_key(|(_, _, bytes)| std::cmp::Reverse(*bytes));
    formats
}

/// Elements of an array that are shown.
const SHOWN: usize = 6;
/// Characters of a string that are shown, on one line.
const WIDTH: usize = 72;

/// A value on one line. What a file holds may not reach the terminal as it is: escape sequences do things.
fn brief(value: &Value) -> String {
    match value {
        Value::String(bytes) => {
            let text = String::from_utf8_lossy(bytes);
            let shown: String = text.chars().take(WIDTH).flat_map(char::escape_debug).collect();
            let more = text.chars().count().saturating_sub(WIDTH);
            if more == 0 { shown } else { format!("{shown}… ({} more)", human::count(more as u64)) }
        }
        Value::Array(array) => {
            let mut shown: Vec<String> = elements(array).map(|v| v.to_string()).collect();
            if array.len() > shown.len() {
                shown.push("…".into());
            }
            let kind = array.type_name().trim_start_matches("array of ");
            format!("[{}] ({} of {kind})", shown.join(", "), human::count(array.len() as u64))
        }
        other => scalar(other).to_string(),
    }
}

fn scalar(value: &Value) -> serde_json::Value {
    match value {
        Value::U8(v) => json!(v),
        Value::I8(v) => json!(v),
        Value::U16(v) => json!(v),
        Value::I16(v) => json!(v),
        Value::U32(v) => json!(v),
        Value::I32(v) => json!(v),
        Value::U64(v) => json!(v),
        Value::I64(v) => json!(v),
        // By way of text: 1e-6 is not to become 9.999999974752427e-7.
        Value::F32(v) => {
            v.to_string().parse::<f64>().ok().filter(|v| v.is_finite()).map_or(json!(v.to_string()), |v| json!(v))
        }
        Value::F64(v) => json!(v),
        Value::Bool(v) => json!(v),
        Value::String(bytes) => json!(String::from_utf8_lossy(bytes)),
        Value::Array(array) => {
            json!({ "type": array.type_name(), "length": array.len(), "first": elements(array).collect::<Vec<_>>() })
        }
    }
}

/// The first elements of an array.
fn elements(array: &Array) -> Box<dyn Iterator<Item = serde_json::Value> + '_> {
    macro_rules! each {
        ($($variant:ident)*) => {
            match array {
                $(Array::$variant(values) => Box::new(values.iter().take(SHOWN).map(|v| scalar(&Value::$variant(*v)))),)*
                Array::String(strings) => Box::new(strings.iter().take(SHOWN).map(|s| json!(String::from_utf8_lossy(s)))),
                Array::Array(arrays) => Box::new(arrays.iter().take(SHOWN).map(|a| json!(a.type_name()))),
            }
        };
    }
    each!(U8 I8 U16 I16 U32 I32 U64 I64 F32 F64 Bool)
}

/// Metadata: the architecture's hyperparameters, and the rest.
fn metadata(gguf: &Gguf) -> [Vec<(&str, &Value)>; 2] {
    let prefix = gguf.architecture().map(|name| format!("{name}.")).unwrap_or_default();
    let own = |key: &str| !prefix.is_empty() && key.starts_with(&prefix);
    let (hyper, rest) = gguf.metadata().iter().partition(|(key, _)| own(key));
    [hyper, rest]
}

fn json(gguf: &Gguf) -> serde_json::Value {
    let object = |pairs: &[(&str, &Value)]| -> Map<String, serde_json::Value> {
        pairs.iter().map(|(key, value)| (key.to_string(), scalar(value))).collect()
    };
    let [hyper, rest] = metadata(gguf);
    let (limit, most, on) = limits();
    let shards = largest_stack(gguf).map(|stack| {
        let (shards, at_once) = stack.shards(limit, most);
        json!({ "count": shards, "most_bytes": limit, "at_once": at_once, "dispatches": shards.div_ceil(at_once), "on": on })
    });
    let cache = caches(gguf, limit).map(|c| {
        json!({ "positions": c.positions, "count": c.shards, "most_bytes": limit, "more_dispatches": c.dispatches, "on": on })
    });
    let tensor = |t: &TensorInfo| {
        json!({
            "name": t.name,
            "format": t.type_name(),
            "shape": shape(t),
            "bytes": t.bytes,
            "active_bytes": active_bytes(gguf, t),
        })
    };
    json!({
        "file": gguf.name(),
        "version": gguf.version(),
        "architecture": gguf.architecture().ok(),
        "hyperparameters": object(&hyper),
        "metadata": object(&rest),
        "tensors": gguf.tensors().iter().map(tensor).collect::<Vec<_>>(),
        "shards_of_largest_stack": shards,
        "shards_of_largest_cache": cache,
        "total_bytes": gguf.data_bytes(),
        "active_bytes_per_token": gguf.tensors().iter().map(|t| active_bytes(gguf, t)).sum::<u64>(),
    })
}

fn text(gguf: &Gguf, style: Style) -> String {
    let mut out = String::new();
    let heading = |out: &mut String, text: &str| writeln!(out, "\n{}{text}{}", style.bold, style.reset);
    let [hyper, rest] = metadata(gguf);
    let written = (|| {
        let architecture = gguf.architecture().map_or("no architecture".into(), |a| a.escape_debug().to_string());
        writeln!(out, "{}{}{}  GGUF {}, {architecture}", style.bold, gguf.name(), style.reset, gguf.version())?;
        for (title, pairs) in [("Hyperparameters", hyper), ("Metadata", rest)] {
            heading(&mut out, title)?;
            let width = pairs.iter().map(|(key, _)| key.chars().count()).max().unwrap_or(0);
            for (key, value) in pairs {
                writeln!(out, "  {:<width$}  {}", key.escape_debug().to_string(), brief(value))?;
            }
        }
        heading(&mut out, "Tensors")?;
        tensor_table(gguf, &mut out)?;
        heading(&mut out, "Sizes")?;
        sizes(gguf, &mut out)
    })();
    written.expect("a string takes all");
    out
}

fn tensor_table(gguf: &Gguf, out: &mut String) -> std::fmt::Result {
    let shapes = gguf.tensors().iter().map(|t| shape(t).iter().map(u64::to_string).collect::<Vec<_>>().join(" x "));
    let rows: Vec<(String, String, &TensorInfo)> =
        gguf.tensors().iter().zip(shapes).map(|(t, s)| (t.name.escape_debug().to_string(), s, t)).collect();
    let name_width = rows.iter().map(|(name, ..)| name.chars().count()).max().unwrap_or(0);
    let shape_width = rows.iter().map(|(_, shape, _)| shape.len()).max().unwrap_or(0);
    for (name, shape, tensor) in rows {
        let size = human::bytes(tensor.bytes);
        writeln!(out, "  {name:<name_width$}  {:<8}{shape:>shape_width$}  {size:>9}", tensor.type_name())?;
    }
    Ok(())
}

fn sizes(gguf: &Gguf, out: &mut String) -> std::fmt::Result {
    for (format, count, bytes) in formats(gguf) {
        let tensors = if count == 1 { "tensor" } else { "tensors" };
        writeln!(out, "  {format:<8}  {:>9}  in {count} {tensors}", human::bytes(bytes))?;
    }
    writeln!(out, "  {:<8}  {:>9}", "total", human::bytes(gguf.data_bytes()))?;
    let over: u64 = gguf.tensors().iter().filter(|t| passed_over(gguf, t)).map(|t| t.bytes).sum();
    if over > 0 {
        writeln!(
            out,
            "  {:<8}  {:>9}  in blocks that predict further tokens, which are passed over",
            "unused",
            human::bytes(over)
        )?;
    }
    let active: u64 = gguf.tensors().iter().map(|t| active_bytes(gguf, t)).sum();
    let (limit, most, on) = limits();
    if let Some(stack) = largest_stack(gguf) {
        let (shards, at_once) = stack.shards(limit, most);
        let dispatches = shards.div_ceil(at_once);
        writeln!(
            out,
            "  {:<8}  {shards:>9}  of the largest stack of experts, {} each at most, {at_once} read at once: {dispatches} \
             {} a product ({on})",
            "shards",
            human::bytes(limit),
            if dispatches == 1 { "dispatch" } else { "dispatches" }
        )?;
    }
    if let Some(Caches { positions, shards, dispatches }) = caches(gguf, limit) {
        writeln!(
            out,
            "  {:<8}  {shards:>9}  of a layer's keys in f16 at {} positions, {} each at most: {dispatches} dispatches more a \
             token ({on})",
            "shards",
            human::count(positions as u64),
            human::bytes(limit),
        )?;
    }
    let of = experts(gguf).map_or(String::new(), |(count, used)| format!(", with {used} of {count} experts"));
    writeln!(out, "  {:<8}  {:>9}  read for each token{of}", "active", human::bytes(active))
}
