use super::pre::PreTokenizer;

/// What can be wrong with a vocabulary, a chat template or a conversation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A metadata value is of the wrong type, or is not text where text is asked for.
    #[error(transparent)]
    Gguf(#[from] crate::gguf::Error),
    /// The file describes no tokenizer, or not all of one.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A tokenizer kind that halogen does not know.
    #[error("tokenizer.ggml.model = {0:?} is not supported: known are gpt2, llama, gemma4")]
    UnknownModel(String),
    /// A pre-tokenizer that halogen does not know. Another would cut words elsewhere and the model would read
    /// tokens that it never saw in training, so none is guessed.
    #[error("tokenizer.ggml.pre = {0:?} is not supported: known are {known}", known = PreTokenizer::known())]
    UnknownPreTokenizer(String),
    /// An array that runs beside the vocabulary is of another length.
    #[error("{key}: {found} entries for {expected} tokens")]
    Length { key: &'static str, found: usize, expected: usize },
    /// A token id that the vocabulary does not hold.
    #[error("{key} = {id} is outside of the vocabulary of {size} tokens")]
    IdOutOfRange { key: &'static str, id: u32, size: usize },
    /// A token type that GGUF does not define.
    #[error("tokenizer.ggml.token_type[{index}] = {found}: known are 0 to 6")]
    UnknownTokenType { index: usize, found: i32 },
    /// A score that is no number orders nothing.
    #[error("tokenizer.ggml.scores[{0}] is not a number")]
    Score(usize),
    /// The limit is halogen's ([`Tokenizer`](super::Tokenizer)).
    #[error("tokenizer.ggml.tokens[{index}] has {bytes} bytes, over the limit of {limit}")]
    TokenTooLong { index: usize, bytes: usize, limit: usize },
    /// A merge that is not two parts with a space between, or that names a token outside of the vocabulary.
    #[error("tokenizer.ggml.merges[{index}] = {merge:?}: {reason}")]
    Merge { index: usize, merge: String, reason: &'static str },
    /// The limit is that of the `tokenizers` crate, whose dense table of the first 512 symbols' pairs has 65,534 rows.
    #[error("tokenizer.ggml.merges joins the first 512 symbols in {0} ways, over the limit of 65534")]
    DenseMerges(usize),
    /// The `tokenizers` crate refused the vocabulary.
    #[error("tokenizer.ggml.tokens: {0}")]
    Vocabulary(String),

    /// The limit is halogen's: templates come with models, from anyone.
    #[error("tokenizer.chat_template has {bytes} bytes, over the limit of {limit}")]
    TemplateTooLong { bytes: usize, limit: usize },
    /// The chat template is not valid Jinja, or failed while it ran.
    #[error("tokenizer.chat_template: {0}")]
    Template(String),
    /// The chat template refused the conversation, in its author's words.
    #[error("the chat template refuses the conversation: {0}")]
    Refused(String),
    /// The limit is halogen's too.
    #[error("the chat template writes more than {0} bytes")]
    OutputTooLong(usize),
    /// Chat text that holds every character which halogen could mark quoted control tokens with.
    #[error("the conversation holds all 32 noncharacters U+FDD0 to U+FDEF, so none is left to mark quotations with")]
    NoGuard,
}

/// The result of this module's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;
