//! One file of a model.

use super::header::Header;
use super::{AsyncReadAt, Error, ReadAt, ShardProblem, source};

/// One opened file of a model.
pub(super) struct Shard {
    /// The file's name, for messages.
    pub(super) file: String,
    pub(super) header: Header,
    pub(super) source: Box<dyn AsyncReadAt>,
}

impl Shard {
    /// A model of one file, which begins with `header`: that much of it, at least.
    pub(super) fn of_source(file: &str, header: &[u8], source: Box<dyn AsyncReadAt>) -> Result<Shard, Error> {
        let header = Header::parse(file, header, source.len())?;
        Shard::whole(file, header, source)
    }

    fn whole(file: &str, header: Header, source: Box<dyn AsyncReadAt>) -> Result<Shard, Error> {
        match header.metadata.u64("split.count")? {
            Some(count) if count > 1 => {
                Err(Error::Shard { file: file.into(), problem: ShardProblem::InMemory { count } })
            }
            _ => Ok(Shard { file: file.into(), header, source }),
        }
    }

    /// A model in memory, which must be whole.
    pub(super) fn in_memory(file: &str, bytes: impl AsRef<[u8]> + ReadAt + 'static) -> Result<Shard, Error> {
        // Parsed where it lies, before it is moved.
        let header = Header::parse(file, bytes.as_ref(), bytes.as_ref().len() as u64)?;
        Shard::whole(file, header, source(bytes))
    }
}
