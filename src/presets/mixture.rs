//! Which tensor of a file is stored in which format. A "Q4_K_M" is a mixture of formats: the rule is that of
//! `llama_tensor_get_type_impl` in llama.cpp's src/llama-quant.cpp (commit 007dbbf), for the models of this list.

use super::tensors::{Heads, Kind, Shaped, layers};
use super::{Error, Result};
use crate::formats::Format;
use crate::gguf::TensorInfo;
use crate::models::Keys;
use serde::Deserialize;
use std::fmt;
use std::str::FromStr;

/// What people call the format of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub enum Mixture {
    /// Mostly q4_k; what matters more in q6_k.
    #[default]
    Q4KM,
    /// Mostly q2_k, with q3_k and q4_k.
    Q2K,
    /// Mostly iq1_s, with formats of 2 to 5 bits.
    IQ1S,
    /// Experts in mxfp4, the rest in q8_0.
    Mxfp4,
    /// Every matrix in one format.
    Pure(Format),
}

const NAMES: [(&str, Mixture); 4] =
    [("q4_k_m", Mixture::Q4KM), ("q2_k", Mixture::Q2K), ("iq1_s", Mixture::IQ1S), ("mxfp4", Mixture::Mxfp4)];

impl FromStr for Mixture {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let lower = name.to_lowercase();
        let mixture = NAMES.iter().find(|(n, _)| *n == lower).map(|(_, m)| *m);
        let pure = || Format::ALL.iter().find(|f| f.name() == lower).map(|f| Mixture::Pure(*f));
        mixture.or_else(pure).ok_or_else(|| {
            let mixtures = NAMES.iter().map(|(name, _)| *name);
            let others = Format::ALL.iter().map(|f| f.name()).filter(|n| NAMES.iter().all(|(name, _)| name != n));
            Error::UnknownFormat { name: name.into(), known: mixtures.chain(others).collect::<Vec<_>>().join(", ") }
        })
    }
}

impl TryFrom<String> for Mixture {
    type Error = Error;

    fn try_from(name: String) -> Result<Self> {
        name.parse()
    }
}

impl fmt::Display for Mixture {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Mixture::Pure(format) => format.fmt(f),
            named => f.pad(NAMES.iter().find(|(_, m)| m == named).expect("all are named").0),
        }
    }
}

/// What decides beside a tensor's name, and how far the count of tensors has come.
struct Rule {
    mixture: Mixture,
    layers: usize,
    /// Query heads that share keys and values, in the first layer.
    gqa: usize,
    /// Eight query heads share keys and values in llama's 80 layers: the values are few, and get more bits.
    seventy_b: bool,
    tied: bool,
    values: usize,
    value: usize,
    down: usize,
}

impl Mixture {
    /// The tensors as they lie in a file, one after another.
    pub fn store(self, keys: &Keys, tensors: &[Shaped]) -> Result<Vec<TensorInfo>> {
        let heads = Heads::of(keys, 0)?;
        let mut rule = Rule {
            mixture: self,
            layers: layers(keys)?,
            gqa: heads.q / heads.kv.max(1),
            seventy_b: keys.architecture() == "llama" && layers(keys)? == 80 && heads.q != heads.kv,
            tied: !tensors.iter().any(|t| t.name == "output.weight"),
            values: tensors.iter().filter(|t| holds_values(&t.name)).count(),
            value: 0,
            down: 0,
        };
        let mut offset = 0;
        let info = |t: &Shaped| {
            let (ggml_type, bytes) = match t.kind {
                Kind::I32 => (GGML_I32, 4 * t.dims.iter().product::<u64>()),
                Kind::F32 => stored(Format::F32, t),
                Kind::Matrix => stored(fallback(rule.format(t), t.dims[0]), t),
            };
            let info = TensorInfo { name: t.name.clone(), dims: t.dims.clone(), ggml_type, shard: 0, offset, bytes };
            offset += bytes.next_multiple_of(ALIGNMENT);
            info
        };
        Ok(tensors.iter().map(info).collect())
    }
}

/// ggml's number of 32-bit integers.
const GGML_I32: u32 = 26;
/// Bytes between which the tensors of a file start.
pub(super) const ALIGNMENT: u64 = 32;

fn stored(format: Format, t: &Shaped) -> (u32, u64) {
    let rows: u64 = t.dims[1..].iter().product();
    (format.ggml(), rows * format.row_bytes(t.dims[0] as usize) as u64)
}

/// A format whose blocks divide the columns.
fn fallback(format: Format, columns: u64) -> Format {
    use Format::*;
    let fits = |format: Format| columns.is_multiple_of(format.block() as u64);
    let smaller = match format {
        _ if fits(format) => return format,
        Q2K | Q3K | TQ1_0 | TQ2_0 => Q4_0,
        Q4K => Q5_0,
        Q5K => Q5_1,
        Q6K => Q8_0,
        _ => IQ4NL,
    };
    if fits(smaller) { smaller } else { F16 }
}

fn holds_values(name: &str) -> bool {
    ["attn_v.weight", "attn_qkv.weight", "attn_kv_b.weight"].iter().any(|v| name.ends_with(v))
}

impl Rule {
    /// The format of one matrix; they come in the file's order.
    fn format(&mut self, t: &Shaped) -> Format {
        let (name, columns) = (t.name.as_str(), t.dims[0]);
        let output = name == "output.weight" || (self.tied && name == "token_embd.weight");
        let base = match self.mixture {
            Mixture::Pure(format) => return format,
            Mixture::Mxfp4 if t.dims.len() > 2 && !output => return Format::MXFP4,
            Mixture::Mxfp4 => return Format::Q8_0,
            Mixture::Q4KM => Format::Q4K,
            Mixture::Q2K => Format::Q2K,
            Mixture::IQ1S => Format::IQ1S,
        };
        if output {
            return match self.mixture {
                _ if !columns.is_multiple_of(256) => Format::Q8_0,
                Mixture::IQ1S => Format::Q5K,
                _ => Format::Q6K,
            };
        }
        if self.mixture == Mixture::IQ1S {
            return self.iq1_s(name, base);
        }
        if holds_values(name) {
            self.value += 1;
            let format = match self.mixture {
                Mixture::Q2K if self.gqa >= 4 => Format::Q4K,
                Mixture::Q2K => Format::Q3K,
                _ if more_bits(self.value - 1, self.values) => Format::Q6K,
                _ => base,
            };
            return if self.seventy_b && format != Format::Q6K { Format::Q5K } else { format };
        }
        if name.contains("ffn_down") {
            let layer = name.split('.').nth(1).and_then(|l| l.parse().ok()).unwrap_or(0);
            return match self.mixture {
                Mixture::Q2K => Format::Q3K,
                _ if more_bits(layer, self.layers) => Format::Q6K,
                _ => base,
            };
        }
        if name.ends_with("attn_output.weight") && self.mixture == Mixture::Q2K {
            return Format::Q3K;
        }
        base
    }

    fn iq1_s(&mut self, name: &str, base: Format) -> Format {
        if name == "token_embd.weight" {
            return Format::Q2K;
        }
        if holds_values(name) {
            // Mixtures all have four experts at least.
            return if self.gqa >= 4 { Format::Q4K } else { Format::Q2K };
        }
        if name.contains("ffn_down") {
            self.down += 1;
            return if self.down <= self.layers / 8 { Format::Q2K } else { base };
        }
        if name.ends_with("attn_output.weight") { Format::IQ2XXS } else { base }
    }
}

/// The first and last eighth, and every third between.
fn more_bits(at: usize, count: usize) -> bool {
    at < count / 8 || at >= 7 * count / 8 || (at - count / 8) % 3 == 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for name in ["q4_k_m", "q2_k", "iq1_s", "mxfp4", "q6_k", "bf16"] {
            assert_eq!(name.parse::<Mixture>().unwrap().to_string(), name);
        }
        assert_eq!("Q4_K_M".parse::<Mixture>().unwrap(), Mixture::Q4KM);
        assert!("q9".parse::<Mixture>().unwrap_err().to_string().contains("q4_k_m"));
    }

    #[test]
    fn columns_that_no_block_divides_get_another_format() {
        assert_eq!(fallback(Format::Q4K, 2880), Format::Q5_0);
        assert_eq!(fallback(Format::Q6K, 2880), Format::Q8_0);
        assert_eq!(fallback(Format::IQ1S, 2880), Format::IQ4NL);
        assert_eq!(fallback(Format::Q4K, 48), Format::F16);
    }
}
