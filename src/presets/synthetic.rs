//! Models without a file: a preset's shape with weights from a seed. The whole GGUF file exists, but only where it is read:
//! the loader, a copy on a disk and every later part see the same bytes.

use super::blocks::{Content, Maker, Skew};
use super::mixture::ALIGNMENT;
use super::usage::Usage;
use super::{Mixture, ModelPreset, Result};
use crate::formats::Format;
use crate::gguf::{self, Gguf, Metadata, ReadAt, Strings, TensorInfo};
use crate::memory::Routing;
use std::io::{self, Write};
use std::sync::Arc;

/// A made-up GGUF file.
pub struct Synthetic {
    name: String,
    header: Vec<u8>,
    /// In file order.
    tensors: Vec<(TensorInfo, Maker)>,
    len: u64,
}

/// Bytes that [`Synthetic::write`] makes at once.
const CHUNK: u64 = 8 << 20;

impl Synthetic {
    /// The model of `preset` with its first `layers` layers, whose routers choose all experts alike.
    ///
    /// # Errors
    /// A preset of which the tensors are not known.
    pub fn new(preset: &ModelPreset, mixture: Mixture, layers: usize, seed: u64) -> Result<Synthetic> {
        Synthetic::with_routing(preset, mixture, layers, seed, Routing::Uniform)
    }

    /// As [`Synthetic::new`]; its routers choose experts as often as `routing` says.
    ///
    /// # Errors
    /// A preset of which the tensors are not known.
    pub fn with_routing(
        preset: &ModelPreset,
        mixture: Mixture,
        layers: usize,
        seed: u64,
        routing: Routing,
    ) -> Result<Synthetic> {
        let mut metadata = preset.metadata(layers);
        vocabulary(&mut metadata, preset.vocabulary());
        let mut infos = preset.tensors(layers, mixture)?;
        let header = gguf::header(&metadata, &infos)?;
        infos.iter_mut().for_each(|t| t.offset += header.len() as u64);
        let len = infos.last().map_or(0, |t| t.offset + t.bytes.next_multiple_of(ALIGNMENT));
        let contents = Contents::new(preset, layers, seed, routing, &infos);
        let tensors = infos.into_iter().map(|t| {
            let maker = Maker::new(contents.of(&t), seed_of(seed, &t));
            (t, maker)
        });
        let skewed = if routing == Routing::Uniform { String::new() } else { format!(", {routing}") };
        let name = format!("like {}:{mixture}{skewed}", preset.name);
        Ok(Synthetic { name, header, tensors: tensors.collect(), len })
    }

    /// The model, as if its file had been opened.
    pub fn gguf(self) -> Result<Gguf> {
        let (name, header) = (self.name.clone(), self.header.clone());
        Ok(Gguf::from_source(&name, &header, gguf::source(self))?)
    }

    /// Writes the whole file.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let mut bytes = vec![0; CHUNK as usize];
        for offset in (0..self.len).step_by(CHUNK as usize) {
            let bytes = &mut bytes[..CHUNK.min(self.len - offset) as usize];
            self.read_at(offset, bytes)?;
            out.write_all(bytes)?;
        }
        Ok(())
    }
}

impl ReadAt for Synthetic {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(buf.len() as u64).filter(|end| *end <= self.len);
        let end = end.ok_or(io::ErrorKind::UnexpectedEof)?;
        // What belongs to no tensor is padding.
        buf.fill(0);
        let header = self.header.get(offset as usize..).unwrap_or(&[]);
        let from_header = header.len().min(buf.len());
        buf[..from_header].copy_from_slice(&header[..from_header]);
        let first = self.tensors.partition_point(|(t, _)| t.offset + t.bytes <= offset);
        for (t, maker) in self.tensors[first..].iter().take_while(|(t, _)| t.offset < end) {
            let (from, to) = (offset.max(t.offset), end.min(t.offset + t.bytes));
            let part = &mut buf[(from - offset) as usize..(to - offset) as usize];
            fill(maker, from - t.offset, part);
        }
        Ok(())
    }
}

/// The bytes of a tensor from `at`.
fn fill(maker: &Maker, at: u64, mut out: &mut [u8]) {
    let size = maker.block_bytes();
    let mut block = vec![0; size];
    let (mut index, mut skip) = (at / size as u64, (at % size as u64) as usize);
    while !out.is_empty() {
        let count = (size - skip).min(out.len());
        let (part, rest) = out.split_at_mut(count);
        if count == size {
            maker.block(index, part);
        } else {
            maker.block(index, &mut block);
            part.copy_from_slice(&block[skip..skip + count]);
        }
        (out, index, skip) = (rest, index + 1, 0);
    }
}

/// FNV-1a, a step.
fn mix(hash: u64, byte: u8) -> u64 {
    (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
}

/// Tokens of which none is part of another.
fn vocabulary(metadata: &mut Metadata, count: usize) {
    let tokens = Strings::from_iter((0..count).map(|i| format!("<{i}>")));
    metadata.insert("tokenizer.ggml.model", "llama".into());
    metadata.insert("tokenizer.ggml.tokens", tokens.into());
    metadata.insert("tokenizer.ggml.scores", vec![0f32; count].into());
    metadata.insert("tokenizer.ggml.eos_token_id", 0u32.into());
}

/// Of a tensor, by its name.
fn seed_of(seed: u64, t: &TensorInfo) -> u64 {
    t.name.bytes().fold(seed, mix)
}

/// What tensors hold, so that activations stay near 1 through all layers, differ by token, and are routed as asked.
struct Contents<'p> {
    preset: &'p ModelPreset,
    layers: usize,
    /// Where experts are not all used alike, and what the last channels of each embedding hold then.
    skew: Option<(Arc<Usage>, Arc<[f32]>)>,
}

/// Channels that are the same for all tokens where experts are not all used alike: so many, or this part of all.
const STEADY: u64 = 256;
const STEADY_PART: u64 = 8;
/// How much larger the embedding is then than what layers add to it, which is in part the same for all tokens.
const OUTWEIGHS: f32 = 4.0;

impl<'p> Contents<'p> {
    fn new(preset: &'p ModelPreset, layers: usize, seed: u64, routing: Routing, infos: &[TensorInfo]) -> Self {
        let mut contents = Contents { preset, layers, skew: None };
        let embedding = infos.iter().find(|t| t.name == "token_embd.weight").filter(|_| routing != Routing::Uniform);
        if let Some((t, usage)) = embedding.zip(preset.usage(routing, seed)) {
            let usage = Arc::new(usage);
            contents.skew = Some((usage.clone(), Arc::default()));
            let Content::Rows { format, rms, blocks, alike } = contents.of(t) else { return contents };
            let maker = Maker::new(contents.of(t), seed_of(seed, t));
            let mut bytes = vec![0; alike as usize * format.block_bytes()];
            for (i, block) in bytes.chunks_mut(format.block_bytes()).enumerate() {
                maker.block(blocks - alike + i as u64, block);
            }
            let mut steady = vec![0.0; alike as usize * format.block()];
            format.decode(&bytes, &mut steady);
            contents.skew = Some((usage, steady.into_iter().map(|v| v / rms).collect()));
        }
        contents
    }

    fn of(&self, t: &TensorInfo) -> Content {
        let name = t.name.as_str();
        let what = name.rsplit_once("blk.").map_or(name, |(_, n)| n.split_once('.').map_or(n, |(_, what)| what));
        let skew = || {
            let (usage, steady) = self.skew.clone()?;
            let layer = name.strip_prefix("blk.")?.split('.').next()?.parse().ok()?;
            Some(Skew { usage, layer, steady })
        };
        let Some(format) = Format::from_ggml(t.ggml_type) else {
            let count = self.preset.experts().map_or(1, |(count, _)| count as u32);
            return Content::Ids { used: t.dims[0] as u32, count, skew: skew() };
        };
        let columns = t.dims[0];
        let rms = 1.0 / (columns as f32).sqrt();
        match what {
            // Minus the rates at which states decay.
            "ssm_a" => return Content::Values { around: -1.0, spread: 0.5 },
            "rope_freqs.weight" => return Content::Values { around: 1.0, spread: 0.0 },
            // Signs as they fall: where the embedding is the output matrix, too, a token would be followed by itself for ever.
            "output_norm.weight" if self.preset.is_tied() => {
                return Content::Values { around: 0.0, spread: 3f32.sqrt() };
            }
            // Gemma multiplies it by the root of the columns. What comes in differs by token as much as all that layers add; where
            // routers are calibrated, it outweighs that.
            "token_embd.weight" => {
                let rms = if self.preset.architecture.starts_with("gemma") { rms } else { 1.0 };
                let rms = if self.skew.is_some() { OUTWEIGHS * rms } else { rms };
                let blocks = columns / format.block() as u64;
                let steady = STEADY.min(columns / STEADY_PART).div_ceil(format.block() as u64);
                return Content::Rows { format, rms, blocks, alike: if self.skew.is_some() { steady } else { 0 } };
            }
            "ffn_gate_inp.weight" if format == Format::F32 => {
                if let Some(skew) = skew() {
                    return Content::Router { columns: columns as usize, skew };
                }
            }
            _ => {}
        }
        if what.contains("norm") && what.ends_with(".weight") || what.contains("scale") && !what.contains("hc_") {
            return Content::Values { around: 1.0, spread: 0.1 };
        }
        if format == Format::F32 && (t.dims.len() == 1 || what.ends_with(".bias") || what.contains("_ape")) {
            return Content::Values { around: 0.0, spread: 0.02 };
        }
        // Two branches a layer are added up.
        let branch = ["attn_output", "ffn_down", "ssm_out"].iter().any(|end| what.starts_with(end));
        let rms = if branch { rms / (2.0 * self.layers as f32).sqrt() } else { rms };
        Content::Weights { format, rms }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model() -> Synthetic {
        Synthetic::new(ModelPreset::named("qwen3-30b-a3b").unwrap(), Mixture::Q4KM, 2, 1).unwrap()
    }

    #[test]
    fn bytes_do_not_depend_on_how_they_are_read() {
        let model = model();
        let (t, _) = &model.tensors[model.tensors.len() - 2];
        let mut whole = vec![0; 10_000];
        let start = t.offset - 5000;
        model.read_at(start, &mut whole).unwrap();
        for (from, len) in [(0, 1), (4990, 33), (5000, 144), (5077, 1000), (9999, 1)] {
            let mut part = vec![0; len];
            model.read_at(start + from as u64, &mut part).unwrap();
            assert_eq!(part, whole[from..from + len], "{len} bytes from {from}");
        }
        assert!(model.read_at(model.len() - 1, &mut [0; 2]).is_err());
        let other = Synthetic::new(ModelPreset::named("qwen3-30b-a3b").unwrap(), Mixture::Q4KM, 2, 2).unwrap();
        let mut others = vec![0; 10_000];
        other.read_at(start, &mut others).unwrap();
        assert_ne!(others, whole);
    }

    #[test]
    fn a_written_file_holds_what_is_read_without_one() {
        let tiny = r#"{ "name": "tiny", "source": "none", "architecture": "deepseek4", "vocabulary": 40, "format": "mxfp4",
            "keys": { "block_count": 2, "embedding_length": 256, "attention.head_count": 2, "attention.head_count_kv": 1,
                "attention.key_length": 64, "attention.q_lora_rank": 32, "attention.output_group_count": 2,
                "attention.output_lora_rank": 32, "attention.compress_ratios": { "cycle": [0, 4] }, "hash_layer_count": 1,
                "attention.indexer.head_count": 2, "attention.indexer.key_length": 32, "attention.sliding_window": 8,
                "expert_count": 4, "expert_used_count": 2, "expert_feed_forward_length": 64, "hyper_connection.count": 4 },
            "published": { "total": "1B" } }"#;
        let tiny: ModelPreset = serde_json::from_str(tiny).unwrap();
        let made = || Synthetic::new(&tiny, tiny.format(), 2, 1).unwrap();
        let mut file = Vec::new();
        made().write(&mut file).unwrap();
        let (file, virtual_one) = (Gguf::from_bytes("tiny", file).unwrap(), made().gguf().unwrap());
        assert_eq!(file.tensors(), virtual_one.tensors());
        for t in file.tensors() {
            let (mut a, mut b) = (vec![0; t.bytes as usize], vec![0; t.bytes as usize]);
            file.blocking_read(t, 0, &mut a).unwrap();
            virtual_one.blocking_read(t, 0, &mut b).unwrap();
            assert!(a == b && a.iter().any(|byte| *byte != 0), "{}", t.name);
        }
    }

    #[test]
    fn the_header_is_that_of_the_file() {
        let model = model();
        let (len, tensors) = (model.len(), model.tensors.len());
        let gguf = model.gguf().unwrap();
        assert_eq!(gguf.tensors().len(), tensors);
        let last = gguf.tensors().last().unwrap();
        assert_eq!((last.offset + last.bytes).next_multiple_of(ALIGNMENT), len);
        assert_eq!(gguf.metadata().require_strings("tokenizer.ggml.tokens").unwrap().len(), 151_936);
    }
}
