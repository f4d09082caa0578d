//! How keys and values are kept, as llama.cpp's users say it.

use anyhow::{Result, bail};
use halogen::memory::KvFormat;

#[derive(Clone, Copy, Debug, clap::Args)]
pub struct CacheArgs {
    /// How keys are kept: f16 or q8_0, which takes 34 bytes for 32 values; also -ctk
    #[arg(long, value_name = "TYPE", hide_possible_values = true)]
    cache_type_k: Option<CacheType>,

    /// The same of values; also -ctv
    #[arg(long, value_name = "TYPE", hide_possible_values = true)]
    cache_type_v: Option<CacheType>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum CacheType {
    F16,
    #[value(name = "q8_0")]
    Q8_0,
}

impl CacheArgs {
    /// # Errors
    /// Keys and values of two kinds.
    pub fn format(&self) -> Result<KvFormat> {
        let [k, v] = [self.cache_type_k, self.cache_type_v].map(|given| given.unwrap_or(CacheType::F16));
        if k != v {
            bail!("-ctk and -ctv: keys and values are kept alike here; give both, or neither for f16");
        }
        Ok(if k == CacheType::Q8_0 { KvFormat::Q8_0 } else { KvFormat::F16 })
    }
}

const LONG: [(&str, &str); 7] = [
    ("-ctk", "--cache-type-k"),
    ("-ctv", "--cache-type-v"),
    ("-ub", "--ubatch-size"),
    ("-ngl", "--n-gpu-layers"),
    ("-ncmoe", "--n-cpu-moe"),
    ("-cmoe", "--cpu-moe"),
    ("-ot", "--override-tensor"),
];

/// llama.cpp's short options of several letters, which clap would read letter by letter.
pub fn long_names(args: impl Iterator<Item = std::ffi::OsString>) -> impl Iterator<Item = std::ffi::OsString> {
    let mut options = true;
    args.map(move |arg| {
        options &= arg != "--";
        let long = LONG.iter().find(|(short, _)| options && arg.to_str() == Some(short));
        long.map_or(arg, |(_, long)| long.into())
    })
}

#[cfg(test)]
mod tests {
    use super::long_names;

    #[test]
    fn short_names_are_those_of_options_only() {
        let given = ["run", "-ctk", "q8_0", "-c", "100", "--", "-ctv"].map(Into::into);
        let read: Vec<_> = long_names(given.into_iter()).collect();
        assert_eq!(read, ["run", "--cache-type-k", "q8_0", "-c", "100", "--", "-ctv"]);
    }
}
