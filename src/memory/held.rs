//! Weights that come and go, held in host memory as the device lays them out.

use super::copies::RowCopy;
use super::filling::{Reads, read};
use super::{Backing, Error, Result, System};
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
    held: HashMap<(usize, u64, usize), Vec<u8>>,
}

fn key(copy: &RowCopy) -> (usize, u64, usize) {
    (copy.tensor.shard, copy.tensor.offset, copy.first_row)
}

impl Source {
    pub fn new(gguf: &Gguf) -> Source {
        Source { gguf: gguf.clone(), held: HashMap::new() }
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
        let room = available.is_some_and(|available| bytes <= available.saturating_sub(OTHERS));
        match (backing, available) {
            (Backing::Disk, _) => Ok(false),
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
        let (mut arriving, mut bytes) = (read(&self.gguf, &copies), 0);
        while let Some((index, laid)) = arriving.next().await {
            bytes += copies[index].bytes() as u64;
            self.held.insert(key(&copies[index]), laid?);
        }
        Ok(bytes)
    }

    /// Copies by index, from host memory if they are held there.
    pub fn read(&self, copies: &Arc<Vec<RowCopy>>) -> Reads {
        let held: Option<Vec<_>> = copies.iter().map(|copy| self.held.get(&key(copy)).cloned()).collect();
        match held {
            Some(held) => Box::pin(futures::stream::iter(held.into_iter().map(Ok).enumerate())),
            None => read(&self.gguf, copies),
        }
    }
}
