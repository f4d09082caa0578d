//! Weights that stay in the file's own pages: tensors whose rows lie there as kernels read them.

use super::Weights;
use crate::formats::Format;
use crate::gguf::TensorInfo;
use crate::gpu::Pages;
use crate::memory::copies::{RowCopy, Rows, copies, cut};
use crate::memory::{Error, Result};
use crate::ops::Shard;
use std::collections::HashMap;
use std::sync::Arc;

/// Of a load that was asked for it.
#[derive(Default)]
pub(in crate::memory) struct Imports {
    /// Files by their number, mapped when they are first needed.
    files: HashMap<usize, Arc<Pages>>,
    /// What stays in the file: "copies" that find their bytes where they go, each with the file's pages.
    pub placed: Vec<(RowCopy, Arc<Pages>)>,
}

impl Imports {
    pub fn bytes(&self) -> u64 {
        self.placed.iter().map(|(copy, _)| copy.bytes() as u64).sum()
    }
}

impl Weights<'_> {
    /// Whether matrices are rather two than one that is joined: where each can stay in the file.
    pub(super) fn keeps_apart(&mut self, name: &str, format: Format, columns: usize) -> bool {
        self.imports.is_some() && self.experts.is_none() && self.can_stay(name, format, columns)
    }

    fn can_stay(&mut self, name: &str, format: Format, columns: usize) -> bool {
        self.places(name) && format.lies_as_in_files(columns) && self.store.stream_of(name).is_none()
    }

    /// Parts as they lie in the file, in shards of whole units of `unit` rows. `None` where a load is not to import, where rows are
    /// laid out anew or joined, or where the device cannot bind what begins so.
    pub(super) fn imported(
        &mut self,
        name: &str,
        format: Format,
        columns: usize,
        parts: &[Rows],
        unit: usize,
    ) -> Result<Option<Vec<Shard>>> {
        let unit_bytes = (format.device_row_bytes(columns) * unit) as u64;
        if self.imports.is_none() || !self.can_stay(name, format, columns) || unit_bytes > self.most() {
            return Ok(None);
        }
        let runs = runs(parts);
        // A matrix in several shards is as many dispatches; of a stack's experts one dispatch reads several.
        if runs.iter().any(|run| !run.count.is_multiple_of(unit)) || runs.len() > 1 && unit == 1 {
            return Ok(None);
        }
        let (mut shards, mut placed) = (Vec::new(), Vec::new());
        for run in &runs {
            let pages = self.pages(&run.tensor)?;
            let first = shards.iter().map(|shard: &Shard| shard.count).sum::<usize>();
            let row_bytes = format.row_bytes(columns) as u64;
            let start = run.tensor.offset + run.first as u64 * row_bytes;
            let mut own = Vec::new();
            for units in cut(run.count / unit, unit_bytes, self.most()) {
                let bytes = start + units.start as u64 * unit_bytes..start + units.end as u64 * unit_bytes;
                let Some(view) = self.gpu.import(name, &pages, bytes)? else { return Ok(None) };
                own.push(Shard { view, first: first + units.start, count: units.len() });
            }
            let all = copies(std::slice::from_ref(run), &own, 0, unit, format, columns);
            placed.extend(all.into_iter().map(|copy| (copy, pages.clone())));
            shards.extend(own);
        }
        self.imports.as_mut().expect("looked above").placed.extend(placed);
        Ok(Some(shards))
    }

    /// The file that holds a tensor, mapped.
    fn pages(&mut self, tensor: &TensorInfo) -> Result<Arc<Pages>> {
        let imports = self.imports.as_mut().expect("a load that imports");
        if let Some(pages) = imports.files.get(&tensor.shard) {
            return Ok(pages.clone());
        }
        let (name, file) = self.gguf.file_of(tensor);
        let wrong = |problem: String| Error::Import { file: name.into(), problem };
        let file = file.ok_or_else(|| wrong("it is no file on a disk".into()))?;
        let pages = Arc::new(Pages::of(file).map_err(|error| wrong(error.to_string()))?);
        imports.files.insert(tensor.shard, pages.clone());
        Ok(pages)
    }
}

/// Parts, with those joined that follow one another in a tensor.
fn runs(parts: &[Rows]) -> Vec<Rows> {
    let mut runs: Vec<Rows> = Vec::new();
    for part in parts {
        match runs.last_mut() {
            Some(last) if last.tensor.name == part.tensor.name && last.first + last.count == part.first => {
                last.count += part.count;
            }
            _ => runs.push(part.clone()),
        }
    }
    runs
}
