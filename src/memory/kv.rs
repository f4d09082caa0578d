//! What a sequence keeps from one token to the next: keys and values of every position, or a recurrent state.

use super::keeps::{Compressed, Extent, Keeps};
use super::rows::{Kind, Place, in_ring, shard_rows};
use super::span::Span;
use super::{Error, Result};
use crate::gpu::{self, Gpu, View};
use crate::ops::{CompressedLayer, KvFormat, KvLayer, KvRows, KvUse, RecurrentLayer};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

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

    /// Its keys and values, where it has any.
    fn kv(&self) -> Option<&KvLayer> {
        match self {
            LayerCache::Kv(layer) => Some(layer),
            LayerCache::Recurrent(_) => None,
            LayerCache::Compressed(layer) => Some(&layer.kv),
        }
    }

    fn kv_mut(&mut self) -> Option<&mut KvLayer> {
        match self {
            LayerCache::Kv(layer) => Some(layer),
            LayerCache::Recurrent(_) => None,
            LayerCache::Compressed(layer) => Some(&mut layer.kv),
        }
    }

    /// What has no rows.
    fn fixed(&self) -> impl Iterator<Item = &View> {
        let views = match self {
            LayerCache::Kv(_) => [None, None],
            LayerCache::Recurrent(layer) => [Some(&layer.conv), Some(&layer.delta)],
            LayerCache::Compressed(layer) => [layer.sums.as_ref(), layer.index_sums.as_ref()],
        };
        views.into_iter().flatten()
    }

    /// All that the layer keeps.
    pub fn views(&self) -> impl Iterator<Item = &View> {
        self.kv().into_iter().flat_map(KvLayer::parts).flatten().flat_map(|rows| &rows.shards).chain(self.fixed())
    }
}

/// What all layers keep of a sequence of at most `positions` tokens.
pub struct KvCache {
    pub layers: Vec<LayerCache>,
    pub positions: usize,
    /// Positions for which layers that keep all of them have rows so far.
    room: usize,
    /// Where there was no memory to grow: set once the device has let go of all that was dropped before.
    short: Option<Arc<AtomicBool>>,
    /// Times that growing is still to find no memory behind its first layer, for tests.
    pub(crate) starved: u32,
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
        let nothing = gpu.buffer("nothing", 0)?;
        let layer = |(i, keeps): (usize, &Keeps)| {
            let place = Place { gpu, elsewhere: (!span.contains(i)).then_some(&nothing) };
            let fixed = |name: &str, at: usize| {
                let bytes = keeps.fixed_bytes()[at];
                (bytes > 0).then(|| place.buffer(name, bytes)).transpose()
            };
            let (rows, wraps) = keeps.rows(extent);
            Ok(match keeps {
                Keeps::Kv(_) | Keeps::Window { .. } => {
                    LayerCache::Kv(kv_layer(place, *keeps, extent, room, format, wraps.then_some(rows))?)
                }
                Keeps::Recurrent { .. } => {
                    let [conv, delta] = keeps.fixed_bytes();
                    LayerCache::Recurrent(RecurrentLayer {
                        conv: place.buffer("convolution state", conv)?,
                        delta: place.buffer("delta state", delta)?,
                    })
                }
                Keeps::Compressed(_) => LayerCache::Compressed(CompressedLayer {
                    kv: kv_layer(place, *keeps, extent, room, format, None)?,
                    window_rows: rows,
                    sums: fixed("window sums", 0)?,
                    index_sums: fixed("index window sums", 1)?,
                }),
            })
        };
        let layers = keeps.iter().enumerate().map(layer).collect::<Result<_>>()?;
        let (keeps, span) = (keeps.to_vec(), span.clone());
        Ok(KvCache { layers, positions: extent.positions, room, short: None, starved: 0, keeps, span, extent, format })
    }

    /// Positions for which there is room without growing.
    pub fn room(&self) -> usize {
        self.room
    }

    /// Makes room for so many positions, by doubling: new buffers layer by layer, into which the device copies what the old ones
    /// hold, behind all that was submitted. What was recorded keeps the old ones alive. Where the device has no memory for old and
    /// new, it is asked again once it has let go of what was dropped before: now if it is to `wait`, else in a later call.
    /// Whether there is room now.
    ///
    /// # Errors
    /// No memory even then, or a lost device.
    pub fn grow(&mut self, gpu: &Gpu, positions: usize, wait: bool) -> Result<bool> {
        let mut room = self.room;
        while room < positions.min(self.positions) {
            room = room.saturating_mul(2).min(self.positions);
        }
        while room > self.room {
            if self.waits() {
                if !wait {
                    return Ok(false);
                }
                gpu.blocking_wait()?;
            }
            let before = self.total_bytes();
            match self.grow_layers(gpu, room) {
                Ok(()) => (self.room, self.short) = (room, None),
                // Nothing was let go of since that would have been enough for a layer.
                Err(error) if self.is_short() && self.total_bytes() == before => {
                    self.short = None;
                    return Err(error);
                }
                Err(Error::Gpu(gpu::Error::OutOfMemory(_))) => self.short = Some(gpu.seen()),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Whether it has begun to grow and found no memory.
    pub fn is_short(&self) -> bool {
        self.short.is_some()
    }

    /// Whether it has, and the device has not let go of all yet that was dropped before.
    pub fn waits(&self) -> bool {
        self.short.as_ref().is_some_and(|freed| !freed.load(Ordering::Acquire))
    }

    fn grow_layers(&mut self, gpu: &Gpu, room: usize) -> Result<()> {
        let all = self.layers.iter_mut().zip(&self.keeps).enumerate();
        for (_, (layer, keeps)) in all.filter(|(i, _)| self.span.contains(*i)) {
            let Some(kv) = layer.kv_mut().filter(|_| keeps.grows(self.extent)) else { continue };
            // A growth that failed may have left some with more rows than others.
            for (kind, rows) in keeps.kinds(self.extent, room, self.format).iter().zip(kv.parts_mut()) {
                if let (Some(kind), Some(rows)) = (kind, rows) {
                    *rows = kind.grown(Place { gpu, elsewhere: None }, rows)?;
                }
            }
            gpu.poll()?;
            if let Some(less) = self.starved.checked_sub(1) {
                self.starved = less;
                return Err(gpu::Error::OutOfMemory("a starved cache".into()).into());
            }
        }
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
        let of_layer = |(layer, keeps): (&LayerCache, &Keeps)| {
            let (ring, wraps) = keeps.rows(self.extent);
            let window = match keeps {
                Keeps::Window { window, .. } | Keeps::Compressed(Compressed { window, .. }) if wraps => *window,
                _ => 0,
            };
            let held = in_ring(ring, &(position.saturating_sub(window)..position));
            let slices = move |(kind, rows): (Kind, &KvRows)| kind.slices(rows, &held);
            let rows = self
                .kinds(layer, keeps)
                .filter(move |(kind, _)| window > 0 && kind.reads != KvUse::Index)
                .flat_map(slices);
            rows.chain(layer.fixed().cloned()).collect::<Vec<View>>()
        };
        self.own().flat_map(of_layer).collect()
    }

    /// All that a sequence of `tokens` tokens goes on from: the rows of all its positions, where they have rows of their own; of
    /// a ring those that came before `reached` and are not overwritten; and where `settled`, recurrent states.
    pub fn held(&self, tokens: usize, reached: usize, settled: bool) -> Vec<View> {
        let of_layer = |(layer, keeps): (&LayerCache, &Keeps)| {
            let (ring, wraps) = keeps.rows(self.extent);
            let positions = if wraps { reached.saturating_sub(ring).min(tokens)..tokens } else { 0..tokens };
            let entries = |first: usize, c: &Compressed| first..first + c.entries(tokens);
            let slices = |(kind, rows): (Kind, &KvRows)| match keeps {
                Keeps::Compressed(c) if kind.reads == KvUse::Index => kind.slices(rows, &[entries(0, c)]),
                Keeps::Compressed(c) => {
                    let window = kind.slices(rows, &in_ring(ring, &positions));
                    [window, kind.slices(rows, &[entries(ring, c)])].concat()
                }
                _ => kind.slices(rows, &in_ring(ring, &positions)),
            };
            let rows = self.kinds(layer, keeps).flat_map(slices);
            rows.chain(layer.fixed().filter(|_| settled).cloned()).collect::<Vec<View>>()
        };
        self.own().flat_map(of_layer).collect()
    }

    /// Layers that lie on this device, and what they keep.
    fn own(&self) -> impl Iterator<Item = (&LayerCache, &Keeps)> {
        let all = self.layers.iter().zip(&self.keeps).enumerate();
        all.filter(|(i, _)| self.span.contains(*i)).map(|(_, layer)| layer)
    }

    /// The rows of a layer, and of what kind they are.
    fn kinds<'l>(&self, layer: &'l LayerCache, keeps: &Keeps) -> impl Iterator<Item = (Kind, &'l KvRows)> {
        let kinds = keeps.kinds(self.extent, self.room, self.format);
        kinds.into_iter().zip(layer.kv().map_or([None; 3], KvLayer::parts)).filter_map(|(kind, rows)| kind.zip(rows))
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
        keeps.iter().map(|k| k.bytes(extent, extent.positions, format)).fold(0, u64::saturating_add)
    }

    /// Buffers of the rows of the layer that has the most, where one may have `limit` bytes, and dispatches that a step takes more
    /// than with one each: rows are written shard by shard.
    pub fn shards(keeps: &[Keeps], extent: Extent, format: KvFormat, limit: u64) -> [usize; 2] {
        let of_layer = |keeps: &Keeps| {
            let [k, v, index] = keeps.kinds(extent, extent.positions, format);
            let widest = k.iter().chain(&v).map(Kind::row_bytes).max().unwrap_or(0);
            let own = k.map(|kind| kind.rows.div_ceil(shard_rows(limit, widest).max(1)));
            let index = index.map(|kind| kind.rows.div_ceil(shard_rows(limit, kind.row_bytes()).max(1)));
            [own, index].map(|count| count.unwrap_or(1))
        };
        let layers: Vec<[usize; 2]> = keeps.iter().map(of_layer).collect();
        let most = layers.iter().flatten().max().copied().unwrap_or(1);
        [most, layers.iter().flatten().map(|count| count - 1).fold(0, usize::saturating_add)]
    }

    /// Bytes beside these while it grows: what one layer had before it grew for the last time.
    pub fn growth_bytes(keeps: &[Keeps], extent: Extent, room: usize, format: KvFormat) -> u64 {
        let growing = keeps.iter().filter(|keeps| room < extent.positions && keeps.grows(extent));
        let before = |keeps: &Keeps| {
            let kinds = keeps.kinds(extent, extent.positions, format).into_iter().flatten();
            kinds.map(|kind| kind.bytes() / 2).fold(0, u64::saturating_add)
        };
        growing.map(before).max().unwrap_or(0)
    }

    /// Bytes that [`KvCache::states`] has at most.
    pub fn state_bytes(keeps: &[Keeps], extent: Extent, format: KvFormat) -> u64 {
        keeps.iter().map(|k| k.state_bytes(extent, format)).fold(0, u64::saturating_add)
    }
}

/// The rows of a layer with room for `room` positions.
fn kv_layer(
    place: Place,
    keeps: Keeps,
    extent: Extent,
    room: usize,
    format: KvFormat,
    ring: Option<usize>,
) -> Result<KvLayer> {
    let whole = keeps.kinds(extent, extent.positions, format);
    let widest = whole.iter().flatten().filter(|kind| kind.reads != KvUse::Index).map(Kind::row_bytes).max();
    // Whoever writes rows of a window binds one shard.
    let window = if matches!(keeps, Keeps::Compressed(_)) { keeps.rows(extent).0 } else { 1 };
    let made = whole.into_iter().zip(keeps.kinds(extent, room, format)).map(|(whole, kind)| {
        let Some((whole, kind)) = whole.zip(kind) else { return Ok(None) };
        let (row_bytes, least) = match kind.reads {
            KvUse::Index => (kind.row_bytes(), 1),
            _ => (widest.unwrap_or(0), window),
        };
        let each = whole.each(place.gpu, row_bytes, least)?;
        kind.make(place, each, keeps.grows(extent).then_some(whole.rows)).map(Some)
    });
    let [k, v, index] = made.collect::<Result<Vec<_>>>()?.try_into().expect("three kinds");
    Ok(KvLayer { k: k.expect("a layer has keys"), v, index, format, ring })
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
