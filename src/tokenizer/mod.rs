//! A GGUF vocabulary as a `tokenizers` tokenizer; chat templates.
