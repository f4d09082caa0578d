//! From the arrays of a GGUF file to a tokenizer of the `tokenizers` crate.
//!
//! That crate trusts its input: it panics on merges outside of the vocabulary and on tables too large. So all of it is
//! checked here first.

use std::collections::HashSet;

use tokenizers::SplitDelimiterBehavior::Isolated;
use tokenizers::models::bpe::{BpeConfig, Merges, PipelineBPE, Vocab};
use tokenizers::normalizers::prepend::Prepend;
use tokenizers::normalizers::replace::Replace;
use tokenizers::pipeline::{
    NormalizerChain, PipelineModel, PipelineNormalizer, PipelinePostProcessor, PipelinePreTokenizer, PipelineTokenizer,
};
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::vocab::bucket_added_vocabulary::{AddedToken, AddedVocabulary};

use super::pre::vocabulary_error;
use super::vocab::{Texts, TokenType, Vocabulary};
use super::{Error, PreTokenizer, Result};
use crate::gguf::Metadata;

const MERGES: &str = "tokenizer.ggml.merges";
const SCORES: &str = "tokenizer.ggml.scores";

/// `tokenizer.ggml.model = gpt2`: BPE over bytes.
pub(super) fn byte_level(
    metadata: &Metadata,
    vocabulary: &Vocabulary,
    texts: &Texts,
    pre: &PreTokenizer,
) -> Result<PipelineTokenizer> {
    let config = BpeConfig {
        vocab: words(vocabulary, texts),
        merges: listed_merges(metadata, vocabulary, texts)?,
        byte_level: true,
        ignore_merges: pre.ignore_merges,
        ..BpeConfig::default()
    };
    assemble(vocabulary, texts, Vec::new(), pre.build()?, config)
}

/// `tokenizer.ggml.model = llama`: SentencePiece BPE, whose merges are implied by the scores.
pub(super) fn sentence_piece(
    metadata: &Metadata,
    vocabulary: &Vocabulary,
    texts: &Texts,
    space_prefix: bool,
) -> Result<PipelineTokenizer> {
    let config = BpeConfig {
        vocab: words(vocabulary, texts),
        merges: scored_merges(metadata, vocabulary, texts)?,
        ..fallback(vocabulary, texts)
    };
    assemble(vocabulary, texts, escape(space_prefix)?, PipelinePreTokenizer::None, config)
}

/// `tokenizer.ggml.model = gemma4`: SentencePiece's alphabet with listed merges, which never cross the end of a line.
pub(super) fn gemma4(
    metadata: &Metadata,
    vocabulary: &Vocabulary,
    texts: &Texts,
    space_prefix: bool,
) -> Result<PipelineTokenizer> {
    let config = BpeConfig {
        vocab: words(vocabulary, texts),
        merges: listed_merges(metadata, vocabulary, texts)?,
        ..fallback(vocabulary, texts)
    };
    let lines = Split::new(SplitPattern::Regex(r"[^\n]+|\n+".to_owned()), Isolated, false).map_err(vocabulary_error)?;
    assemble(vocabulary, texts, escape(space_prefix)?, PipelinePreTokenizer::Split(lines), config)
}

/// What text encodes to: all tokens but those that are no text.
fn words(vocabulary: &Vocabulary, texts: &Texts) -> Vocab {
    let spelled = texts.ids.iter().filter(|(text, id)| !text.is_empty() && is_word(vocabulary, **id));
    spelled.map(|(text, id)| ((*text).to_owned(), *id)).collect()
}

fn is_word(vocabulary: &Vocabulary, id: u32) -> bool {
    vocabulary.token_type(id).is_some_and(|kind| !kind.is_control())
}

/// SentencePiece's spaces: `▁` for each, and one before the text.
fn escape(space_prefix: bool) -> Result<Vec<PipelineNormalizer>> {
    let spaces = Replace::new(" ", "▁").map_err(vocabulary_error)?;
    let prefix = space_prefix.then(|| PipelineNormalizer::Prepend(Prepend::new("▁".to_owned())));
    Ok(prefix.into_iter().chain([PipelineNormalizer::Replace(spaces)]).collect())
}

/// What becomes of a character that no token holds: its bytes, if the vocabulary has all, else the unknown token.
fn fallback(vocabulary: &Vocabulary, texts: &Texts) -> BpeConfig {
    let byte_fallback = (0..=255).all(|byte: u8| texts.ids.contains_key(format!("<{byte:#04X}>").as_str()));
    let mut unknown = texts.ids.iter().filter(|(_, id)| vocabulary.token_type(**id) == Some(TokenType::Unknown));
    let unk_token = if byte_fallback { None } else { unknown.next().map(|(text, _)| (*text).to_owned()) };
    BpeConfig { byte_fallback, unk_token, ..BpeConfig::default() }
}

/// The merges that the file lists, best first: `left right`.
fn listed_merges(metadata: &Metadata, vocabulary: &Vocabulary, texts: &Texts) -> Result<Merges> {
    let listed = metadata.strings(MERGES)?.ok_or(Error::Missing(MERGES))?;
    let mut merges = Merges::with_capacity(listed.len());
    for (index, merge) in listed.into_iter().enumerate() {
        let refuse = |reason| Error::Merge { index, merge: String::from_utf8_lossy(merge).into_owned(), reason };
        let text = std::str::from_utf8(merge).map_err(|_| refuse("not UTF-8"))?;
        // The first character may itself be a space.
        let space = text.char_indices().skip(1).find(|(_, c)| *c == ' ').ok_or_else(|| refuse("no two parts"))?.0;
        let (left, right) = (&text[..space], &text[space + 1..]);
        let mut is_text = true;
        for (part, reason) in [
            (left, "the first part is not a token"),
            (right, "the second part is not a token"),
            (&[left, right].concat(), "the parts joined are not a token"),
        ] {
            is_text &= is_word(vocabulary, *texts.ids.get(part).ok_or_else(|| refuse(reason))?);
        }
        // No text may merge into a control token.
        if is_text {
            merges.push((left.to_owned(), right.to_owned()));
        }
    }
    Ok(merges)
}

/// The merges that scores imply: every way to part a token into two, the token with the best score first.
///
/// SentencePiece joins the two neighbours whose joint token scores best, leftmost first; a merge list whose ranks
/// follow the scores does the same. `transformers` converts LLaMA's vocabulary alike.
fn scored_merges(metadata: &Metadata, vocabulary: &Vocabulary, texts: &Texts) -> Result<Merges> {
    let scores = metadata.f32s(SCORES)?.ok_or(Error::Missing(SCORES))?;
    if scores.len() != vocabulary.len() {
        return Err(Error::Length { key: SCORES, found: scores.len(), expected: vocabulary.len() });
    }
    if let Some(index) = scores.iter().position(|score| score.is_nan()) {
        return Err(Error::Score(index));
    }
    let is_text = |id: &u32| is_word(vocabulary, *id) && vocabulary.token_type(*id) != Some(TokenType::Byte);
    let word = |text: &str| texts.ids.get(text).copied().filter(is_text);

    let mut ways: Vec<(u32, u32, u32, &str, usize)> = Vec::new();
    for (id, text) in texts.by_id.iter().enumerate() {
        let id = id as u32;
        let Some(text) = text.filter(|text| word(text) == Some(id)) else { continue };
        for (at, _) in text.char_indices().skip(1) {
            if let (Some(left), Some(right)) = (word(&text[..at]), word(&text[at..])) {
                ways.push((id, left, right, text, at));
            }
        }
    }
    ways.sort_by(|a, b| {
        let by_score = scores[b.0 as usize].total_cmp(&scores[a.0 as usize]);
        by_score.then_with(|| (a.0, a.1, a.2).cmp(&(b.0, b.1, b.2)))
    });
    Ok(ways.into_iter().map(|(_, _, _, text, at)| (text[..at].to_owned(), text[at..].to_owned())).collect())
}

/// Puts the parts together, with the tokens that are matched in the text before any word is cut.
fn assemble(
    vocabulary: &Vocabulary,
    texts: &Texts,
    normalizers: Vec<PipelineNormalizer>,
    pre_tokenizer: PipelinePreTokenizer,
    mut config: BpeConfig,
) -> Result<PipelineTokenizer> {
    check_dense(&config.vocab, &config.merges)?;
    // The unknown token is no word, but the library wants it among them.
    if let Some(unknown) = &config.unk_token {
        config.vocab.insert(unknown.clone(), texts.ids[unknown.as_str()]);
    }
    let model = PipelineBPE::from_config(config).map_err(vocabulary_error)?;

    let mut matched: Vec<(&str, u32)> = texts.ids.iter().map(|(text, id)| (*text, *id)).collect();
    matched.retain(|(text, id)| is_matched(vocabulary, text, *id));
    matched.sort_unstable_by_key(|(_, id)| *id);
    let tokens = matched.into_iter().map(|(text, id)| {
        let control = vocabulary.token_type(id).is_some_and(TokenType::is_control);
        AddedToken::from(text, control).normalized(false)
    });
    let mut added = AddedVocabulary::new();
    let no_normalizer: Option<&NormalizerChain> = None;
    let id = |text: &str| texts.ids.get(text).copied();
    added.add_tokens(tokens, vocabulary.len(), id, no_normalizer).map_err(vocabulary_error)?;

    Ok(PipelineTokenizer::from_parts(
        added,
        normalizers,
        pre_tokenizer,
        PipelineModel::BPE(model),
        PipelinePostProcessor::default(),
        None,
        Default::default(),
        None,
        None,
    ))
}

/// Whether a token is found in text by its spelling, as llama.cpp does for those that training did not merge. Not a
/// control token of one character, of which no mark could keep a message clear (`chat`).
fn is_matched(vocabulary: &Vocabulary, text: &str, id: u32) -> bool {
    match vocabulary.token_type(id) {
        Some(TokenType::Control | TokenType::Unknown) => text.chars().nth(1).is_some(),
        Some(TokenType::UserDefined) => !text.is_empty(),
        _ => false,
    }
}

/// The library keeps the merges among its first 512 symbols in a table with 16-bit indices, and panics beyond.
/// Its symbols are the tokens that no merge makes, by id, then those that one makes, by rank.
fn check_dense(vocab: &Vocab, merges: &Merges) -> Result<()> {
    const SYMBOLS: usize = 512;
    const LIMIT: usize = u16::MAX as usize - 1;
    if merges.len() <= LIMIT {
        return Ok(());
    }
    let products: Vec<u32> = merges.iter().map(|(left, right)| vocab[&[left.as_str(), right].concat()]).collect();
    let made: HashSet<u32> = products.iter().copied().collect();
    let mut symbols: Vec<u32> = vocab.values().copied().filter(|id| !made.contains(id)).collect();
    symbols.sort_unstable();
    let mut seen = HashSet::new();
    symbols.extend(products.into_iter().filter(|id| seen.insert(*id)));
    let first: HashSet<u32> = symbols.into_iter().take(SYMBOLS).collect();
    let is_first = |text: &String| first.contains(&vocab[text]);
    let pairs: HashSet<_> = merges.iter().filter(|(left, right)| is_first(left) && is_first(right)).collect();
    if pairs.len() > LIMIT { Err(Error::DenseMerges(pairs.len())) } else { Ok(()) }
}
