//! The files of one model. `gguf-split` cuts a large one into `NAME-00001-of-00003.gguf` and so on; each has a header
//! of its own, and the first has the model's metadata.

use super::Threads;
use crate::gguf::header::Header;
use crate::gguf::shard::Shard;
use crate::gguf::{Error, ReadAt, ShardProblem};
use memmap2::Mmap;
use std::fs::File;
use std::io;
use std::path::Path;

/// A file, with the length that it had when it was opened.
pub struct FileSource {
    file: File,
    len: u64,
}

impl FileSource {
    /// Refuses what is no regular file: it has no length to check anything against.
    pub fn new(file: File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        Ok(FileSource { len: metadata.len(), file })
    }
}

/// Has the page cache let go of bytes of a file, to its end if `len` is 0, where the system can be told (Linux). It keeps what
/// is not written yet, and what somebody has mapped.
pub fn forget(file: &File, offset: u64, len: u64) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    rustix::fs::fadvise(file, offset, std::num::NonZeroU64::new(len), rustix::fs::Advice::DontNeed)?;
    #[cfg(not(target_os = "linux"))]
    let _ = (file, offset, len);
    Ok(())
}

impl ReadAt for FileSource {
    fn len(&self) -> u64 {
        self.len
    }

    fn forget(&self, offset: u64, len: u64) {
        // A page cache that keeps it is full and not wrong.
        let _ = forget(&self.file, offset, len);
    }

    fn file(&self) -> Option<&File> {
        Some(&self.file)
    }

    #[cfg(unix)]
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.file, buf, offset)
    }

    #[cfg(windows)]
    fn read_at(&self, mut offset: u64, mut buf: &mut [u8]) -> io::Result<()> {
        use std::os::windows::fs::FileExt;
        while !buf.is_empty() {
            match self.file.seek_read(buf, offset) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => {
                    offset += read as u64;
                    buf = &mut buf[read..];
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    #[cfg(not(any(unix, windows)))]
    fn read_at(&self, _offset: u64, _buf: &mut [u8]) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

fn open(path: &Path) -> Result<Shard, Error> {
    let file = file_name(path);
    let error = |cause| Error::Io { file: file.clone(), what: format!("cannot open {}", path.display()), cause };
    let source = File::open(path).and_then(FileSource::new).map_err(error)?;
    // SAFETY: the map lives for this block only, and everything is copied out of it. A file that another process
    // truncates in these milliseconds ends this one with SIGBUS; one that it overwrites yields garbage, which the
    // parser expects of any file.
    let map = unsafe { Mmap::map(&source.file) }.map_err(error)?;
    let header = Header::parse(&file, &map, map.len() as u64)?;
    Ok(Shard { file, header, source: Box::new(Threads::new(source)) })
}

impl Shard {
    fn error(&self, problem: ShardProblem) -> Error {
        Error::Shard { file: self.file.clone(), problem }
    }

    /// Checks one of the `split.` keys.
    fn expect(&self, key: &'static str, expected: u64) -> Result<(), Error> {
        match self.header.metadata.require_u64(key)? {
            found if found == expected => Ok(()),
            found => Err(self.error(ShardProblem::Disagrees { key, found, expected })),
        }
    }
}

/// Opens all files of the model that `path`, any one of them, belongs to. The first comes first.
pub(in crate::gguf) fn open_all(path: &Path) -> Result<Vec<Shard>, Error> {
    let opened = open(path)?;
    let metadata = &opened.header.metadata;
    let count = metadata.u64("split.count")?.unwrap_or(1);
    if count <= 1 {
        return Ok(vec![opened]);
    }
    let number = metadata.require_u64("split.no")?;
    if number >= count {
        return Err(opened.error(ShardProblem::NoSuchShard { found: number, count }));
    }
    let suffix = suffix(number, count);
    let Some(stem) = opened.file.strip_suffix(&suffix).map(str::to_owned) else {
        return Err(opened.error(ShardProblem::Name { shard: number + 1, count, suffix }));
    };

    let asked_for = opened.file.clone();
    let mut opened = Some(opened);
    let mut shards = Vec::new();
    for index in 0..count {
        let shard = match opened.take_if(|_| index == number) {
            Some(shard) => shard,
            None => open_sibling(path, &asked_for, &stem, index, count)?,
        };
        shard.expect("split.count", count)?;
        shard.expect("split.no", index)?;
        shards.push(shard);
    }
    check_tensor_count(&shards)?;
    Ok(shards)
}

fn open_sibling(path: &Path, asked_for: &str, stem: &str, index: u64, count: u64) -> Result<Shard, Error> {
    let sibling = path.with_file_name(format!("{stem}{}", suffix(index, count)));
    open(&sibling).map_err(|error| match error {
        Error::Io { cause, .. } if cause.kind() == io::ErrorKind::NotFound => {
            let path = sibling.display().to_string();
            Error::Shard { file: asked_for.into(), problem: ShardProblem::Missing { shard: index + 1, count, path } }
        }
        other => other,
    })
}

fn check_tensor_count(shards: &[Shard]) -> Result<(), Error> {
    let found = shards.iter().map(|shard| shard.header.tensors.len() as u64).sum();
    let expected = shards[0].header.metadata.require_u64("split.tensors.count")?;
    if found == expected {
        return Ok(());
    }
    Err(shards[0].error(ShardProblem::TensorCount { expected, found, count: shards.len() as u64 }))
}

/// How the name of a shard ends. `index` counts from 0, names from 1.
fn suffix(index: u64, count: u64) -> String {
    format!("-{:05}-of-{count:05}.gguf", index + 1)
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}
