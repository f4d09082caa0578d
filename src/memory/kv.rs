//! What a sequence keeps from one token to the next: keys and values of every position, or a recurrent state.

use super::keeps::{Compressed, Extent, Keeps};
use super::span::Span;
use super::{Error, Result};
use crate::gpu::{self, Gpu, View};
use crate::ops::{CompressedLayer, KvFormat, KvLayer, RecurrentLayer};
use std::ops::Range;

/// What of a cache cannot be cut back to any shorter sequence.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rewind {
    /// States that hold nothing of single positions: they cannot be cut back at all.
    pub recurrent: bool,
    /// Rings, which hold the last positions only.
    pub rings: Option<Rings>,
}

/// The rings of a cache.
#[derive(Clone, Copy, Debug)]
pub struct Rings {
    /// Rows of the shortest.
    pub shortest: usize,
    /// Rows of each beyond its window.
    pub beyond: usize,
}

/// One layer's buffers.
pub enum LayerCache {
    Kv(KvLayer),
    Recurrent(RecurrentLayer),
    Compressed(CompressedLayer),
}

impl LayerCache {
    /// Whether it keeps something that stands for all positions so far.
    fn recurrent(&self) -> bool {
        match self {
            LayerCache::Kv(_) => false,
            LayerCache::Recurrent(_) => true,
            LayerCache::Compressed(layer) => layer.sums.is_some(),
        }
    }

    /// All that the layer keeps.
    pub fn views(&self) -> impl Iterator<Item = &View> {
        let (first, others) = match self {
            LayerCache::Kv(layer) => (&layer.k, [layer.v.as_ref(), layer.index.as_ref(), None]),
            LayerCache::Recurrent(layer) => (&layer.conv, [Some(&layer.delta), None, None]),
            LayerCache::Compressed(layer) => {
                (&layer.kv.k, [layer.kv.index.as_ref(), layer.sums.as_ref(), layer.index_sums.as_ref()])
            }
        };
        std::iter::once(first).chain(others.into_iter().flatten())
    }
}

/// What all layers keep of a sequence of at most `positions` tokens.
pub struct KvCache {
    pub layers: Vec<LayerCache>,
    pub positions: usize,
    /// Positions for which layers that keep all of them have rows so far.
    room: usize,
    keeps: Vec<Keeps>,
    /// Layers that lie on this device: others have buffers that nobody uses.
    span: Span,
    extent: Extent,
    format: KvFormat,
}

impl KvCache {
    /// Whether what layers keep can be kept in that format.
    ///
    /// # Errors
    /// Heads that are not a whole number of blocks, or compressed keys in another format than f16 or f32.
    pub fn check(keeps: &[Keeps], format: KvFormat) -> Result<()> {
        let dims = keeps.iter().flat_map(|keeps| match keeps {
            Keeps::Kv(w) | Keeps::Window { width: w, .. } => [w.k, w.v],
            Keeps::Recurrent { .. } | Keeps::Compressed(_) => [0, 0],
        });
        if format == KvFormat::Q8_0 && keeps.iter().any(|keeps| matches!(keeps, Keeps::Compressed(_))) {
            return Err(Error::KvCompressed);
        }
        match dims.into_iter().find(|dim| !dim.is_multiple_of(format.block())) {
            Some(dim) => Err(Error::KvBlocks { dim, block: format.block() }),
            None => Ok(()),
        }
    }

    /// A cache of the layers of `span` that reaches as far as `extent`, with room for `room` positions at first: [`KvCache::grow`].
    ///
    /// # Errors
    /// As [`KvCache::check`], no memory for it, or a layer that the device cannot bind once it has grown.
    pub fn new(gpu: &Gpu, keeps: &[Keeps], span: &Span, extent: Extent, room: usize, format: KvFormat) -> Result<Self> {
        KvCache::check(keeps, format)?;
        let room = room.clamp(1, extent.positions);
        let mut layers = Vec::with_capacity(keeps.len());
        let nothing = gpu.buffer("nothing", 0)?;
        for (i, keeps) in keeps.iter().enumerate() {
            let place = |name: &str, bytes: u64| match span.contains(i) {
                true => gpu.buffer(name, bytes),
                false => Ok(View { size: bytes.max(16).next_multiple_of(16), ..nothing.clone() }),
            };
            let whole = keeps.bytes(extent, format);
            whole.iter().try_for_each(|bytes| gpu.check_size("KV cache", *bytes))?;
            let grows = keeps.grows(extent);
            let [first, second, ..] =
                keeps.bytes(if grows { Extent { positions: room, ..extent } } else { extent }, format);
            let [_, _, index, fourth] = whole;
            let (rows, wraps) = keeps.rows(extent);
            let buffer = |name: &str, bytes: u64| (bytes > 0).then(|| place(name, bytes)).transpose();
            layers.push(match keeps {
                Keeps::Kv(width) | Keeps::Window { width, .. } => LayerCache::Kv(KvLayer {
                    k: place("K cache", first)?,
                    v: if width.v == 0 { None } else { Some(place("V cache", second)?) },
                    index: if width.index == 0 { None } else { Some(place("index cache", index)?) },
                    format,
                    ring: wraps.then_some(rows),
                    grows_to: grows.then_some(rows),
                }),
                Keeps::Recurrent { .. } => LayerCache::Recurrent(RecurrentLayer {
                    conv: place("convolution state", first)?,
                    delta: place("delta state", second)?,
                }),
                Keeps::Compressed(_) => LayerCache::Compressed(CompressedLayer {
                    kv: KvLayer {
                        k: place("K cache", first)?,
                        v: None,
                        index: buffer("index cache", index)?,
                        format,
                        ring: None,
                        grows_to: None,
                    },
                    window_rows: rows,
                    sums: buffer("window sums", second)?,
                    index_sums: buffer("index window sums", fourth)?,
                }),
            });
        }
        let (keeps, span) = (keeps.to_vec(), span.clone());
        Ok(KvCache { layers, positions: extent.positions, room, keeps, span, extent, format })
    }

    /// Positions for which there is room without growing.
    pub fn room(&self) -> usize {
        self.room
    }

    /// Makes room for so many positions, by doubling: new buffers layer by layer, into which the device copies what the old ones
    /// hold, behind all that was submitted. What was recorded keeps the old ones alive. An indexer's keys have all their rows
    /// from the start. Where the device has no room for old and new, it is waited for until it has let go of those before.
    ///
    /// # Errors
    /// No memory, or a lost device.
    pub fn grow(&mut self, gpu: &Gpu, positions: usize) -> Result<()> {
        let mut room = self.room;
        while room < positions.min(self.positions) {
            room = room.saturating_mul(2).min(self.positions);
        }
        if room == self.room {
            return Ok(());
        }
        let all = self.layers.iter_mut().zip(&self.keeps).enumerate();
        for (_, (layer, keeps)) in all.filter(|(i, _)| self.span.contains(*i)) {
            let (LayerCache::Kv(kv), Keeps::Kv(w) | Keeps::Window { width: w, .. }) = (layer, keeps) else { continue };
            // A growth that failed may have left it longer than the others.
            let rows = kv.rows(w.heads, w.k)..room;
            if kv.grows_to.is_none() || rows.is_empty() {
                continue;
            }
            let new = |view, name, dim| grown(gpu, view, name, self.format.planes(w.heads, dim), &rows);
            let k = new(&kv.k, "K cache", w.k)?;
            kv.v = kv.v.as_ref().map(|v| new(v, "V cache", w.v)).transpose()?;
            kv.k = k;
            gpu.poll()?;
        }
        self.room = room;
        Ok(())
    }

    /// Keys and values of a layer that keeps them, as its model's shape says.
    pub fn kv(&self, layer: usize) -> &KvLayer {
        match &self.layers[layer] {
            LayerCache::Kv(kv) => kv,
            _ => panic!("layer {layer} keeps no keys and values"),
        }
    }

    /// The state of a layer that keeps one, as its model's shape says.
    pub fn recurrent(&self, layer: usize) -> &RecurrentLayer {
        match &self.layers[layer] {
            LayerCache::Recurrent(state) => state,
            _ => panic!("layer {layer} keeps no recurrent state"),
        }
    }

    /// The rows and entries of a layer that keeps them, as its model's shape says.
    pub fn compressed(&self, layer: usize) -> &CompressedLayer {
        match &self.layers[layer] {
            LayerCache::Compressed(layer) => layer,
            _ => panic!("layer {layer} keeps no compressed keys"),
        }
    }

    /// What cannot be cut back.
    pub fn rewind(&self) -> Rewind {
        let ring = |layer: &LayerCache| match layer {
            LayerCache::Kv(kv) => kv.ring,
            LayerCache::Compressed(c) => Some(c.window_rows).filter(|rows| *rows < self.positions),
            LayerCache::Recurrent(_) => None,
        };
        let rings = self.layers.iter().filter_map(ring);
        Rewind {
            recurrent: self.layers.iter().any(LayerCache::recurrent),
            rings: rings.min().map(|shortest| Rings { shortest, beyond: self.extent.beyond }),
        }
    }

    /// What a sequence of `position` tokens needs to go on, beside keys and values that have rows of their own: recurrent
    /// states, and of rings the rows of the window before `position`.
    pub fn states(&self, position: usize) -> Vec<View> {
        let of_layer = |(layer, keeps): (&LayerCache, &Keeps)| match (layer, keeps) {
            (LayerCache::Recurrent(_), _) => layer.views().cloned().collect(),
            (LayerCache::Kv(KvLayer { k, v, ring: Some(rows), .. }), Keeps::Window { width, window }) => {
                let held = position.saturating_sub(*window)..position;
                let slices = |view, dim| ring_slices(view, *rows, self.format.planes(width.heads, dim), &held);
                slices(k, width.k).into_iter().chain(v.iter().flat_map(|v| slices(v, width.v))).collect()
            }
            (LayerCache::Compressed(c), Keeps::Compressed(Compressed { row, window, .. })) => {
                let held = position.saturating_sub(*window)..position;
                let rows = match c.window_rows < self.positions {
                    true => ring_slices(&c.kv.k, c.window_rows, self.format.planes(1, *row), &held),
                    false => vec![],
                };
                rows.into_iter().chain(c.sums.iter().chain(&c.index_sums).cloned()).collect()
            }
            _ => vec![],
        };
        self.own().flat_map(of_layer).collect::<Vec<View>>()
    }

    /// All that a sequence of `tokens` tokens goes on from: the rows of all its positions, where they have rows of their own; of
    /// a ring those that came before `reached` and are not overwritten; and where `settled`, recurrent states.
    pub fn held(&self, tokens: usize, reached: usize, settled: bool) -> Vec<View> {
        let of_layer = |(layer, keeps): (&LayerCache, &Keeps)| -> Vec<View> {
            let (rows, ring) = keeps.rows(self.extent);
            let positions = if ring { reached.saturating_sub(rows).min(tokens)..tokens } else { 0..tokens };
            let index = |dim| [self.format.of_index().row_bytes(1, dim), 0];
            match (layer, keeps) {
                (LayerCache::Kv(kv), Keeps::Kv(w) | Keeps::Window { width: w, .. }) => {
                    let slices = |view: &View, planes| ring_slices(view, kv.rows(w.heads, w.k), planes, &positions);
                    let v = kv.v.iter().flat_map(|v| slices(v, self.format.planes(w.heads, w.v)));
                    let index = kv.index.iter().flat_map(|keys| slices(keys, index(w.index)));
                    slices(&kv.k, self.format.planes(w.heads, w.k)).into_iter().chain(v).chain(index).collect()
                }
                (LayerCache::Compressed(held), Keeps::Compressed(c)) => {
                    let row = self.format.row_bytes(1, c.row);
                    let entries = |view: &View, from: usize, row: u64| {
                        let bytes = c.entries(tokens) as u64 * row;
                        (bytes > 0).then(|| view.slice(from as u64 * row, bytes))
                    };
                    let mut views = ring_slices(&held.kv.k, rows, [row, 0], &positions);
                    views.extend(entries(&held.kv.k, rows, row));
                    let keys = |keys: &View| entries(keys, 0, self.format.row_bytes(1, c.index));
                    views.extend(held.kv.index.as_ref().and_then(keys));
                    views.extend(held.sums.iter().chain(&held.index_sums).filter(|_| settled).cloned());
                    views
                }
                (LayerCache::Recurrent(_), _) if settled => layer.views().cloned().collect(),
                _ => vec![],
            }
        };
        self.own().flat_map(of_layer).collect()
    }

    /// Layers that lie on this device, and what they keep.
    fn own(&self) -> impl Iterator<Item = (&LayerCache, &Keeps)> {
        let all = self.layers.iter().zip(&self.keeps).enumerate();
        all.filter(|(i, _)| self.span.contains(*i)).map(|(_, layer)| layer)
    }

    /// How far it reaches.
    pub fn extent(&self) -> Extent {
        self.extent
    }

    /// Whether a cache of that extent has the same rings.
    pub fn has_rings_of(&self, extent: Extent) -> bool {
        let ring = |(rows, wraps): (usize, bool)| wraps.then_some(rows);
        self.keeps.iter().all(|keeps| ring(keeps.rows(extent)) == ring(keeps.rows(self.extent)))
            && (self.rewind().rings.is_none() || extent.beyond == self.extent.beyond)
    }

    pub fn format(&self) -> KvFormat {
        self.format
    }

    /// Bytes that the cache takes so far.
    pub fn total_bytes(&self) -> u64 {
        self.own().flat_map(|(layer, _)| layer.views()).map(|view| view.size).sum()
    }

    /// Bytes that a cache takes once it has grown as far as it reaches.
    pub fn bytes(keeps: &[Keeps], extent: Extent, format: KvFormat) -> u64 {
        keeps.iter().flat_map(|k| k.bytes(extent, format)).fold(0, u64::saturating_add)
    }

    /// Bytes beside these while it grows: what one layer had before, at most half.
    pub fn growth_bytes(keeps: &[Keeps], extent: Extent, room: usize, format: KvFormat) -> u64 {
        let growing = keeps.iter().filter(|keeps| room < extent.positions && keeps.grows(extent));
        growing
            .map(|keeps| keeps.bytes(extent, format)[..2].iter().fold(0u64, |sum, b| sum.saturating_add(b / 2)))
            .max()
            .unwrap_or(0)
    }

    /// Bytes that [`KvCache::states`] has at most.
    pub fn state_bytes(keeps: &[Keeps], extent: Extent, format: KvFormat) -> u64 {
        keeps.iter().map(|k| k.state_bytes(extent, format)).fold(0, u64::saturating_add)
    }
}

/// A buffer with `rows.end` rows in place of `view`'s `rows.start`, which is copied. A row has so many bytes in each plane.
fn grown(gpu: &Gpu, view: &View, name: &str, planes: [u64; 2], rows: &Range<usize>) -> Result<View> {
    let [from, to] = [rows.start, rows.end].map(|rows| rows as u64);
    let bytes = to * (planes[0] + planes[1]);
    let new = match gpu.buffer(name, bytes) {
        Err(gpu::Error::OutOfMemory(_)) => {
            gpu.blocking_wait()?;
            gpu.buffer(name, bytes)?
        }
        made => made?,
    };
    let plane =
        |(start, bytes): (u64, u64)| (view.slice(from * start, from * bytes), new.slice(to * start, from * bytes));
    let starts = [0, planes[0]].into_iter().zip(planes);
    gpu.copy(&starts.filter(|(_, bytes)| *bytes > 0).map(plane).collect::<Vec<_>>())?;
    Ok(new)
}

/// The rows of positions in a ring of `rows` rows, whose planes follow each other, each `planes` bytes a row: of each one part,
/// or two about its end.
fn ring_slices(view: &View, rows: usize, planes: [u64; 2], positions: &Range<usize>) -> Vec<View> {
    let from = positions.start % rows;
    let before = positions.len().min(rows - from);
    let starts = [0, rows as u64 * planes[0]];
    let parts = |(start, row): (u64, u64)| {
        [(from, before), (0, positions.len() - before)]
            .into_iter()
            .filter(move |(_, count)| *count as u64 * row > 0)
            .map(move |(from, count)| view.slice(start + from as u64 * row, count as u64 * row))
    };
    starts.into_iter().zip(planes).flat_map(parts).collect()
}

#[cfg(test)]
mod tests {
    use super::{Extent, Keeps, KvCache, KvFormat};
    use crate::memory::KvWidth;

    #[test]
    fn layers_with_a_window_take_the_window_and_what_is_beyond() {
        let keeps = [Keeps::Window { width: KvWidth::both(2, 5), window: 100 }, Keeps::Kv(KvWidth::both(2, 5))];
        let bytes = |positions| KvCache::bytes(&keeps, Extent { positions, beyond: 50 }, KvFormat::F16);
        let states = |positions| KvCache::state_bytes(&keeps, Extent { positions, beyond: 50 }, KvFormat::F16);
        for (positions, rows) in [(1, 1), (150, 150), (151, 150), (100_000, 150)] {
            assert_eq!(bytes(positions), 2 * 10 * 2 * (positions + rows) as u64);
            // A ring that never comes round is cut back like any other layer.
            assert_eq!(states(positions), if positions > 150 { 2 * 10 * 2 * 100 } else { 0 });
        }
    }
}
