//! How text is cut into words before merges run: one row a published pre-tokenizer.

use tokenizers::SplitDelimiterBehavior::Isolated;
use tokenizers::pipeline::{self, PipelinePreTokenizer, PreTokenizer as _, PreTokenizerScratch};
use tokenizers::pre_tokenizers::sequence::PipelineSequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::utils::{DEEPSEEK_PATTERNS, is_deepseek};

use super::{Error, Result};

/// A pre-tokenizer of a byte-level vocabulary, as `tokenizer.ggml.pre` names it.
#[derive(Debug)]
pub struct PreTokenizer {
    /// The names that GGUF files know it by; the first is the canonical one.
    names: &'static [&'static str],
    /// Each cuts the pieces that the one before it left, at both ends of a match.
    patterns: &'static [&'static str],
    /// Whether a word that is a token is that token, whatever its merges say.
    pub(super) ignore_merges: bool,
    /// Whether a prompt begins with BOS where `tokenizer.ggml.add_bos_token` is not in the file.
    pub(super) add_bos: bool,
}

/// GPT-2 (openai/gpt-2, encoder.py).
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// cl100k, which Llama 3 took over: up to three digits a word.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// cl100k with one digit a word.
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen2 with combining marks kept beside their letters.
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// o200k: words part where a capital follows a small letter.
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// o200k with one digit a word and no contractions.
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// o200k with runs of Han characters apart.
const KIMI_K2: &str = r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// deepseek-ai/deepseek-llm-7b-base: letters of the scripts that have case, then punctuation, CJK, digits. Escapes where
/// Unicode normalisation would change a letter.
const DEEPSEEK_LLM: &[&str] = &[
    r"[\r\n]",
    r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-\u{1f7d}ᾀ-ᾴᾶ-ᾼ\u{1fbe}ῂ-ῄῆ-ῌῐ-\u{1fd3}ῖ-\u{1fdb}ῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\u{2126}ℨ\u{212a}-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+",
    r"\s?[!-/:-~！-／：-～‘-‟　-。]+",
    r"\s+$",
    r"[一-龥ࠀ-一가-퟿]+",
    r"\p{N}",
];

#[rustfmt::skip]
static TABLE: &[PreTokenizer] = &[
    PreTokenizer { names: &["qwen2", "deepseek-r1-qwen", "hunyuan", "solar-open"], patterns: &[QWEN2], ignore_merges: false, add_bos: false },
    PreTokenizer { names: &["qwen35"], patterns: &[QWEN35], ignore_merges: false, add_bos: false },
    PreTokenizer { names: &["llama-bpe", "llama-v3", "llama3"], patterns: &[LLAMA3], ignore_merges: true, add_bos: true },
    PreTokenizer { names: &["glm4", "chatglm-bpe"], patterns: &[LLAMA3], ignore_merges: false, add_bos: false },
    PreTokenizer { names: &["gpt-4o", "llama4", "minimax-m2"], patterns: &[GPT4O], ignore_merges: false, add_bos: false },
    PreTokenizer { names: &["tekken"], patterns: &[TEKKEN], ignore_merges: true, add_bos: true },
    PreTokenizer { names: &["kimi-k2"], patterns: &[KIMI_K2], ignore_merges: false, add_bos: false },
    PreTokenizer { names: &["deepseek-llm"], patterns: DEEPSEEK_LLM, ignore_merges: false, add_bos: false },
    PreTokenizer { names: &["deepseek-v3", "hunyuan-dense"], patterns: &DEEPSEEK_PATTERNS, ignore_merges: false, add_bos: false },
    PreTokenizer { names: &["gpt-2"], patterns: &[GPT2], ignore_merges: false, add_bos: false },
];

impl PreTokenizer {
    /// The pre-tokenizer of a name that stands in `tokenizer.ggml.pre`.
    pub fn named(name: &str) -> Result<&'static PreTokenizer> {
        let row = TABLE.iter().find(|row| row.names.contains(&name));
        row.ok_or_else(|| Error::UnknownPreTokenizer(name.to_owned()))
    }

    /// The names of all, for messages.
    pub(super) fn known() -> String {
        TABLE.iter().flat_map(|row| row.names).copied().collect::<Vec<_>>().join(", ")
    }

    /// Cuts a text into words, end to end.
    pub fn split<'t>(&self, text: &'t str) -> Result<Vec<&'t str>> {
        let mut spans = Vec::new();
        let splitter = self.build()?;
        splitter.pre_tokenize(text, &mut PreTokenizerScratch::default(), &mut spans).map_err(vocabulary_error)?;
        Ok(spans.iter().map(|span: &pipeline::Span| &text[span.range()]).collect())
    }

    pub(super) fn build(&self) -> Result<PipelinePreTokenizer> {
        let mut splits = self.patterns.iter().map(|pattern| self.splitter(pattern)).collect::<Result<Vec<_>>>()?;
        Ok(match splits.len() {
            1 => splits.remove(0),
            _ => PipelinePreTokenizer::Sequence(PipelineSequence::new(splits)),
        })
    }

    /// One pattern; by the library's own scanner where it has one, else by `fancy-regex`.
    fn splitter(&self, pattern: &str) -> Result<PipelinePreTokenizer> {
        let pattern = SplitPattern::Regex(pattern.to_owned());
        let native = Split::native(pattern.clone(), Isolated, false).map_err(vocabulary_error)?;
        // The library scans DeepSeek's three patterns as one, so none of them has a scanner of its own.
        let as_one = matches!(self.patterns, [a, b, c] if is_deepseek(a, b, c));
        Ok(PipelinePreTokenizer::Split(if as_one || native.grammar().is_some() {
            native
        } else {
            Split::new(pattern, Isolated, false).map_err(vocabulary_error)?
        }))
    }
}

pub(super) fn vocabulary_error(error: tokenizers::Error) -> Error {
    Error::Vocabulary(error.to_string())
}
