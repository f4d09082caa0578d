//! Positioned reads. Tensor bytes never come through a memory map: a file that shrinks under a map is a SIGBUS, under a
//! read an error.

use std::fs::File;
use std::io;

/// Bytes that several threads may read at once, each from its own place.
#[expect(clippy::len_without_is_empty, reason = "a file, not a collection")]
pub trait ReadAt: Send + Sync {
    /// Bytes in all.
    fn len(&self) -> u64;

    /// Fills `buf` from `offset`, in bytes. Past the end this is [`io::ErrorKind::UnexpectedEof`].
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;
}

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

    pub(super) fn file(&self) -> &File {
        &self.file
    }
}

/// Has the page cache let go of bytes of a file, where the system can be told (Linux): what is written already, and nobody else
/// has mapped.
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

impl ReadAt for &'static [u8] {
    fn len(&self) -> u64 {
        <[u8]>::len(self) as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        copy(self, offset, buf)
    }
}

impl ReadAt for Vec<u8> {
    fn len(&self) -> u64 {
        <[u8]>::len(self) as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        copy(self, offset, buf)
    }
}

fn copy(bytes: &[u8], offset: u64, buf: &mut [u8]) -> io::Result<()> {
    let from = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..)?.get(..buf.len()));
    buf.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
    Ok(())
}
