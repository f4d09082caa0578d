//! From shader sources to one WGSL text: `#import NAME`, `#if FLAG`, `#if !FLAG`, `#else`, `#endif`, nothing more.
//! `#import format` brings the snippet of the spec's block format. Sizes enter as `const` declarations on top, since
//! WGSL's overrides cannot size private arrays.

use super::{Error, Result};
use crate::formats::Format;
use std::collections::BTreeSet;
use std::fmt;

macro_rules! shaders {
    ($($name:literal),* $(,)?) => {
        /// Every shader source by name: operators, and under `lib/` what several share.
        pub const SHADERS: &[(&str, &str)] = &[$(($name, include_str!(concat!("../../shaders/", $name, ".wgsl")))),*];
    };
}
shaders![
    "lib/state",
    "lib/weights",
    "lib/tile_dot",
    "lib/tile_f16",
    "lib/tile_f32",
    "lib/quantise",
    "lib/round8",
    "lib/quantised",
    "lib/reduce",
    "lib/scan",
    "lib/best",
    "lib/keys",
    "lib/kv",
    "lib/kv_write",
    "lib/inputs",
    "lib/rope",
    "lib/sigmoid",
    "lib/conv_past",
    "lib/delta_chunk",
    "lib/activation",
    "lib/fragments",
    "lib/matmul",
    "attention",
    "attention_combine",
    "compress",
    "delta_chunks",
    "delta_net",
    "delta_norm",
    "delta_states",
    "embed",
    "expert_combine",
    "expert_down",
    "expert_group",
    "expert_lookup",
    "gate",
    "glu",
    "heads",
    "hyper_mix",
    "hyper_read",
    "index_rows",
    "index_scores",
    "index_select",
    "latent",
    "matmul",
    "matmul_matrix",
    "matvec",
    "matvec_batch",
    "quantise",
    "rate",
    "rate_matrix",
    "rms_norm",
    "router",
    "sample",
    "sample_slices",
    "short_conv",
    "softcap",
    "stream",
    "window_rows",
];

/// What makes one kernel: an operator's shader, the format composed into it, flags and sizes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KernelSpec {
    pub shader: &'static str,
    pub format: Option<Format>,
    pub flags: BTreeSet<&'static str>,
    pub sizes: Vec<(&'static str, u32)>,
}

impl KernelSpec {
    pub fn new(shader: &'static str) -> Self {
        KernelSpec { shader, format: None, flags: BTreeSet::new(), sizes: Vec::new() }
    }

    pub fn format(mut self, format: Format) -> Self {
        self.format = Some(format);
        self
    }

    /// Sets `flag` if `on`.
    pub fn flag(mut self, flag: &'static str, on: bool) -> Self {
        if on {
            self.flags.insert(flag);
        }
        self
    }

    /// Declares `const name: u32 = value;`.
    pub fn size(mut self, name: &'static str, value: u32) -> Self {
        self.sizes.push((name, value));
        self
    }
}

impl fmt::Display for KernelSpec {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.shader)?;
        let mut parts: Vec<String> = self.format.iter().map(|x| x.name().to_string()).collect();
        parts.extend(self.flags.iter().map(|x| x.to_lowercase()));
        parts.extend(self.sizes.iter().map(|(n, v)| format!("{}={v}", n.to_lowercase())));
        if parts.is_empty() { Ok(()) } else { write!(f, "[{}]", parts.join(" ")) }
    }
}

/// A WGSL text, ready for naga.
pub struct Composed {
    pub wgsl: String,
}

/// Composes the WGSL of a kernel.
pub fn compose(spec: &KernelSpec) -> Result<Composed> {
    let mut composer = Composer { spec, imported: BTreeSet::new(), out: String::new() };
    // Directives come before all declarations.
    let matrix = spec.flags.contains("MATRIX");
    if matrix || spec.flags.contains("F16") {
        composer.out += "enable f16;\n";
    }
    if matrix {
        composer.out += "enable wgpu_cooperative_matrix;\n";
    }
    for (name, value) in &spec.sizes {
        composer.out += &format!("const {name}: u32 = {value}u;\n");
    }
    composer.import(spec.shader)?;
    Ok(Composed { wgsl: composer.out })
}

struct Composer<'a> {
    spec: &'a KernelSpec,
    imported: BTreeSet<&'a str>,
    out: String,
}

impl<'a> Composer<'a> {
    fn error(&self, message: String) -> Error {
        Error::Shader { kernel: self.spec.to_string(), message }
    }

    fn import(&mut self, name: &'a str) -> Result<()> {
        if !self.imported.insert(name) {
            return Ok(());
        }
        let text = match (name, self.spec.format) {
            ("format", Some(format)) => format.wgsl(),
            ("format", None) => return Err(self.error("imports `format`, but the spec has none".into())),
            _ => {
                let found = SHADERS.iter().find(|(n, _)| *n == name);
                found.ok_or_else(|| self.error(format!("no shader `{name}` to import")))?.1
            }
        };
        // One entry per open `#if`: whether its current branch is taken.
        let mut taken: Vec<bool> = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let at = |message: &str| format!("{name}.wgsl:{}: {message}", number + 1);
            let mut words = line.split_whitespace();
            match (words.next(), words.next()) {
                (Some("#if"), Some(flag)) => taken.push(match flag.strip_prefix('!') {
                    Some(flag) => !self.spec.flags.contains(flag),
                    None => self.spec.flags.contains(flag),
                }),
                (Some("#else"), None) => match taken.last_mut() {
                    Some(branch) => *branch = !*branch,
                    None => return Err(self.error(at("#else without #if"))),
                },
                (Some("#endif"), None) => {
                    taken.pop().ok_or_else(|| self.error(at("#endif without #if")))?;
                }
                (Some("#import"), Some(what)) => {
                    if taken.iter().all(|t| *t) {
                        self.import(what)?;
                    }
                }
                (Some(word), _) if word.starts_with('#') => {
                    return Err(self.error(at(&format!("unknown directive `{}`", line.trim()))));
                }
                _ => {
                    if taken.iter().all(|t| *t) {
                        self.out += line;
                        self.out.push('\n');
                    }
                }
            }
        }
        if taken.is_empty() { Ok(()) } else { Err(self.error(format!("{name}.wgsl: #if without #endif"))) }
    }
}
