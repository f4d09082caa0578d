//! Weights that come and go, held in host memory as the device lays them out.

use super::copies::RowCopy;
use super::filling::{Layout, read};
use super::{Backing, Error, Result, System};
use crate::boxed::BoxStream;
use crate::gguf::Gguf;
use futures::StreamExt;
use std::collections::HashMap;
use std::sync::Arc;

/// Host memory that is left to others.
const OTHERS: u64 = 2 << 30;

/// Where a store reads from.
pub(super) struct Source {
    pub gguf: Gguf,
    /// By file, place and row; empty where the file is read.
    held: HashMap<(usize, u64, usize), Arc<Vec<u8>>>,
    /// Of reads of the file.
    layout: Arc<Layout>,
}

/// Copies by index, as the device lays them out, in any order.
pub(super) type Brought = BoxStream<'static, (usize, Result<Arc<Vec<u8>>>)>;

/// Whether so much of the host's memory can be taken.
pub(super) fn has_room(bytes: u64, available: Option<u64>) -> bool {
    available.is_some_and(|available| bytes <= available.saturating_sub(OTHERS))
}

fn key(copy: &RowCopy) -> (usize, u64, usize) {
    (copy.tensor.shard, copy.tensor.offset, copy.first_row)
}

impl Source {
    pub fn new(gguf: &Gguf) -> Source {
        Source { gguf: gguf.clone(), held: HashMap::new(), layout: Arc::default() }
    }

    /// Whether anything is held in host memory.
    pub fn holds(&self) -> bool {
        !self.held.is_empty()
    }

    /// Whether `bytes` are to be held: as `backing` says. `own`: the device has a memory of its own.
    ///
    /// # Errors
    /// Host memory that is asked for and not there.
    pub fn wanted(&self, backing: Backing, bytes: u64, own: bool) -> Result<bool> {
        let available = System::read().available;
        let room = has_room(bytes, available);
        match (backing, available) {
            (Backing::Disk | Backing::InPlace, _) => Ok(false),
            (Backing::Auto, _) => Ok(own && room),
            (Backing::Host, Some(available)) if !room => {
                Err(Error::HostMemory { file: self.gguf.name().into(), bytes, available })
            }
            (Backing::Host, _) => Ok(true),
        }
    }

    /// Reads copies into host memory; gives their bytes.
    ///
    /// # Errors
    /// A read that fails.
    pub async fn hold(&mut self, copies: Vec<RowCopy>) -> Result<u64> {
        let copies = Arc::new(copies);
        let (mut arriving, mut bytes) = (read(&self.gguf, &copies, &self.layout), 0);
        while let Some((index, laid)) = arriving.next().await {
            bytes += copies[index].bytes() as u64;
            self.held.insert(key(&copies[index]), Arc::new(laid?));
        }
        Ok(bytes)
    }

    /// Copies by index, from host memory if they are held there. Whoever has used what came gives it back.
    pub fn read(&self, copies: &Arc<Vec<RowCopy>>) -> Brought {
        let held: Option<Vec<_>> = copies.iter().map(|copy| self.held.get(&key(copy)).cloned()).collect();
        match held {
            Some(held) => Box::pin(futures::stream::iter(held.into_iter().map(Ok).enumerate())),
            None => {
                let reads = read(&self.gguf, copies, &self.layout);
                Box::pin(reads.map(|(index, laid)| (index, laid.map(Arc::new))))
            }
        }
    }

    /// What was read from the file is memory for the reads that follow.
    pub fn give_back(&self, laid: Arc<Vec<u8>>) {
        if let Ok(vector) = Arc::try_unwrap(laid) {
            self.layout.give_back(vector);
        }
    }
}
