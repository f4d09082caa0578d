//! The tokenizer against ids that other implementations computed, against vocabularies made here, and against files
//! made to break it.

mod hostile;
mod made;
mod published;
mod round_trip;
mod small;
