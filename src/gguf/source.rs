//! Where tensor bytes come from: positioned reads that arrive when they arrive. They come through no memory map: a file that shrinks
//! under a map is a SIGBUS, under a read an error. Who wants the device to read a file's own pages asks for it (`gpu/import.rs`).

use crate::boxed::BoxFuture;
use std::io;

/// What is done with bytes where they were read: on the reader's own thread, where it has one. It takes the vector, or leaves it
/// to be read into again.
pub type Then = Box<dyn FnOnce(&mut Vec<u8>) -> Vec<u8> + Send>;

/// Memory that a read fills.
pub type Target = Box<dyn AsMut<[u8]> + Send>;

/// A read on its way; dropping it cancels it.
pub type Reading = BoxFuture<'static, io::Result<Vec<u8>>>;

/// Bytes by position that may be far away: a file, or what an app fetches. Many reads may be on their way at once.
#[expect(clippy::len_without_is_empty, reason = "a file, not a collection")]
pub trait AsyncReadAt: wgpu::WasmNotSendSync {
    /// Bytes in all.
    fn len(&self) -> u64;

    /// Starts to read `len` bytes from `offset` on, and gives what `then` makes of them. Past the end this is
    /// [`io::ErrorKind::UnexpectedEof`]. To poll it never waits.
    fn read_at(&self, offset: u64, len: usize, then: Then) -> Reading;

    /// As [`AsyncReadAt::read_at`], into `target`, as many bytes as it has; gives an empty vector.
    fn read_into(&self, offset: u64, mut target: Target) -> Reading {
        let len = (*target).as_mut().len();
        let then = move |bytes: &mut Vec<u8>| {
            (*target).as_mut().copy_from_slice(bytes);
            Vec::new()
        };
        self.read_at(offset, len, Box::new(then))
    }

    /// Bytes that will not be read again soon, so that nothing needs to be kept of them.
    fn forget(&self, _offset: u64, _len: u64) {}

    /// The file that these bytes are, byte for byte, where they are one: it can be mapped.
    #[allow(clippy::disallowed_types, reason = "a browser gives none")]
    fn file(&self) -> Option<&std::fs::File> {
        None
    }
}

/// Bytes by position that are there when the call returns: in memory, or on a disk for which a thread waits.
/// [`source`](super::source()) makes an [`AsyncReadAt`] of it.
#[expect(clippy::len_without_is_empty, reason = "a file, not a collection")]
pub trait ReadAt: Send + Sync {
    /// Bytes in all.
    fn len(&self) -> u64;

    /// Fills `buf` from `offset`, in bytes. Past the end this is [`io::ErrorKind::UnexpectedEof`].
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;

    /// See [`AsyncReadAt::forget`].
    fn forget(&self, _offset: u64, _len: u64) {}

    /// See [`AsyncReadAt::file`].
    #[allow(clippy::disallowed_types, reason = "a browser gives none")]
    fn file(&self) -> Option<&std::fs::File> {
        None
    }
}

/// Reads that are made as they are asked for.
#[cfg(not(feature = "native-io"))]
pub(super) struct AtOnce<S>(pub S);

#[cfg(not(feature = "native-io"))]
impl<S: ReadAt> AsyncReadAt for AtOnce<S> {
    fn len(&self) -> u64 {
        self.0.len()
    }

    #[allow(clippy::disallowed_types, reason = "a browser gives none")]
    fn file(&self) -> Option<&std::fs::File> {
        self.0.file()
    }

    fn read_at(&self, offset: u64, len: usize, then: Then) -> Reading {
        let mut bytes = vec![0; len];
        let read = self.0.read_at(offset, &mut bytes).map(|()| then(&mut bytes));
        Box::pin(std::future::ready(read))
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
