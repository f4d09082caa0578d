//! Weights from the file into their buffers: several positioned reads on their way, rows re-laid where they are read, at most one
//! copy from there to where the device reads them.

use super::copies::{CHUNK, RowCopy};
use super::{Error, Result, System, Weights};
use crate::boxed::{BoxFuture, BoxStream};
use crate::clock;
use crate::formats::Format;
use crate::gguf::{self, Gguf};
use crate::gpu::{Gpu, Mapped, Pages, Room, Staging};
use futures::StreamExt;
use futures::stream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

/// Reads on their way at once: enough that a reader which sees a few of them at a time is never idle.
pub(super) const READS: usize = 16;
/// Chunks on their way from the host to the device at once.
const STAGED: usize = 16;

/// How weights get from the host to the device. The bytes are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Upload {
    /// Through a ring of mapped buffers, from which the device copies.
    #[default]
    Ring,
    /// By the readers, into the weights' own memory, which host and device share.
    InPlace,
    /// Not at all, for those that lie in the file as on the device: the device reads the file's own pages, of which the system keeps
    /// as many in memory as it likes. Others go as [`Upload::on`] says; `LoadStats::imported` counts. The file must be on a disk and
    /// stay as it is for as long as the model is used: if it shrinks, the program may end with SIGBUS. The device must come from
    /// [`Gpu::importing`], or an app's own be opened with VK_EXT_external_memory_host (Vulkan) and the adapter's
    /// `min_storage_buffer_offset_alignment`: a tensor that begins at no multiple of the device's is copied.
    Import,
}

impl Upload {
    /// The way of a device: in place where host and device share one memory and the backend lets the host write it. A card reads
    /// its own memory faster than the host's, so there weights are copied.
    pub fn on(gpu: &Gpu) -> Upload {
        if shares_memory(gpu) && gpu.has_mapped() { Upload::InPlace } else { Upload::Ring }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Upload::Ring => "ring",
            Upload::InPlace => "in place",
            Upload::Import => "import",
        }
    }
}

/// Whether the weights on the device lie in the host's memory.
fn shares_memory(gpu: &Gpu) -> bool {
    matches!(gpu.info().device_type, wgpu::DeviceType::Cpu | wgpu::DeviceType::IntegratedGpu)
}

/// How far a load has come.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Bytes read from the file.
    pub bytes: u64,
    /// Bytes that will be read.
    pub total: u64,
}

/// What was read, and how.
#[derive(Clone, Copy, Debug)]
pub struct Filled {
    /// Bytes of the file.
    pub bytes: u64,
    /// Of all readers together, what laying out rows took.
    pub layout: Duration,
    pub upload: Upload,
    /// Of the bytes, those that the device reads in the file's pages.
    pub imported: u64,
}

/// Laying out rows, by several readers.
#[derive(Default)]
pub(super) struct Layout {
    /// All together.
    nanos: AtomicU64,
    /// Vectors to be used again: memory that is fresh costs more than what is written to it.
    spares: Mutex<Vec<Vec<u8>>>,
}

impl Layout {
    fn spares(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.spares.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Of any length and contents.
    fn vector(&self) -> Vec<u8> {
        self.spares().pop().unwrap_or_default()
    }

    pub fn give_back(&self, vector: Vec<u8>) {
        let mut spares = self.spares();
        if spares.len() < READS {
            spares.push(vector);
        }
    }

    /// Rows as in the file, laid out in `laid`.
    fn relay(&self, format: Format, columns: usize, bytes: &[u8], laid: &mut [u8]) {
        let start = clock::now();
        format.relay(columns, bytes, laid);
        self.nanos.fetch_add(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
    }
}

impl RowCopy {
    /// Starts to read the rows. They arrive in the device's layout, where they are to, or in a vector where that is nowhere.
    fn read(&self, gguf: &Gguf, layout: &Arc<Layout>, to: Option<To>) -> Laid {
        let (format, columns, layout) = (self.format, self.columns, layout.clone());
        let (offset, len, laid_bytes) = (self.offset(), self.bytes(), self.laid_bytes());
        let as_in_file = format.lies_as_in_files(columns);
        match to {
            Some(To::Pages(pages)) => {
                // Into the page cache. A file that has shrunk is an error here, not a fault of whoever looks at the page later.
                let start = self.tensor.offset + offset;
                Box::pin(gguf.read(&self.tensor, offset, len, move |_| {
                    pages.populate(start..start + len as u64);
                    Vec::new()
                }))
            }
            Some(To::Room(room)) if as_in_file => Box::pin(gguf.read_into(&self.tensor, offset, Box::new(room))),
            Some(To::Room(mut room)) => Box::pin(gguf.read(&self.tensor, offset, len, move |bytes| {
                layout.relay(format, columns, bytes, room.as_mut());
                Vec::new()
            })),
            None => Box::pin(gguf.read(&self.tensor, offset, len, move |bytes| {
                let mut laid = layout.vector();
                if as_in_file {
                    return std::mem::replace(bytes, laid);
                }
                laid.resize(laid_bytes, 0);
                layout.relay(format, columns, bytes, &mut laid);
                laid
            })),
        }
    }
}

/// Where rows arrive.
enum To {
    Room(Room),
    /// Where they are.
    Pages(Arc<Pages>),
}

/// Rows on their way.
type Laid = BoxFuture<'static, std::result::Result<Vec<u8>, gguf::Error>>;

impl Weights<'_> {
    /// Reads and uploads all that was placed; gives the bytes read and more. `progress` is told
    /// after each chunk, `false` cancels.
    ///
    /// # Errors
    /// The first of a read or an upload, or the cancelling; what is in flight then is dropped.
    pub async fn fill(self, progress: impl FnMut(Progress) -> bool) -> Result<Filled> {
        let keeps = keeps_pages(self.gguf.data_bytes(), shares_memory(self.gpu), System::read().available);
        self.fill_and(keeps, progress).await
    }

    /// `keeps`: the page cache may keep what was read.
    async fn fill_and(self, keeps: bool, mut progress: impl FnMut(Progress) -> bool) -> Result<Filled> {
        let total = self.total();
        let Weights { gguf, gpu, mut done, mut copies, host, mut upload, imports, mapped, .. } = self;
        drop(host);
        let (mut to, mut imported) = (rooms(&copies, mapped), 0);
        if let Some(imports) = imports {
            (upload, imported) = (Upload::Import, imports.bytes());
            let (own, pages): (Vec<_>, Vec<_>) = imports.placed.into_iter().unzip();
            copies.extend(own);
            to.extend(pages.into_iter().map(|pages| Some(To::Pages(pages))));
        }
        let (copies, layout) = (Arc::new(copies), Arc::new(Layout::default()));
        let mut staging = Staging::new(gpu, STAGED, CHUNK);
        let mut arriving = read_laid(gguf, &copies, to, &layout);
        while let Some((index, laid)) = arriving.next().await {
            let (copy, laid) = (&copies[index], laid?);
            // What was read in place is where it belongs.
            if !laid.is_empty() {
                staging.write(&copy.view, copy.to, &laid).await?;
                layout.give_back(laid);
            }
            if !keeps {
                gguf.forget(&copy.tensor, copy.offset(), copy.bytes() as u64);
            }
            done += copy.bytes() as u64;
            if !progress(Progress { bytes: done, total }) {
                return Err(Error::Cancelled);
            }
        }
        if !keeps {
            // What lies across two chunks was let go of with neither: the system keeps several pages as one.
            gguf.forget_all();
        }
        gpu.flush()?;
        gpu.finished().await?;
        let layout = Duration::from_nanos(layout.nanos.load(Ordering::Relaxed));
        Ok(Filled { bytes: done, layout, upload, imported })
    }
}

/// The part of a mapped buffer that each copy fills, where its buffer is one. All of them are filled: wgpu was told so.
fn rooms(copies: &[RowCopy], mut mapped: Vec<Mapped>) -> Vec<Option<To>> {
    // Copies into one buffer come one after another.
    let (mut last, buffers) = (0, mapped.len());
    let rooms = copies.iter().map(|copy| {
        last = (last..buffers).chain(0..last).find(|i| mapped[*i].is_of(&copy.view))?;
        Some(To::Room(mapped[last].room(copy.view.offset + copy.to, copy.laid_bytes())))
    });
    let rooms = rooms.collect();
    assert!(mapped.iter().all(Mapped::is_given), "copies fill all of a mapped buffer");
    rooms
}

/// Whether the page cache may keep what a load has read: the whole file and what lies in the host's memory fit into it. Else
/// other programs would lose theirs to bytes that are not read again. Where the system does not tell, it decides.
fn keeps_pages(file: u64, shared: bool, available: Option<u64>) -> bool {
    available.is_none_or(|available| file.saturating_mul(if shared { 2 } else { 1 }) <= available)
}

/// Copies by index, re-laid, in any order.
pub(super) type Reads = BoxStream<'static, (usize, Result<Vec<u8>>)>;

/// Reads all copies, as the stream is polled; dropping it cancels what has not come. Vectors that are given back are used again.
pub(super) fn read(gguf: &Gguf, copies: &Arc<Vec<RowCopy>>, layout: &Arc<Layout>) -> Reads {
    read_laid(gguf, copies, Vec::new(), layout)
}

/// As [`read`], to where the same index says, where it does.
fn read_laid(gguf: &Gguf, copies: &Arc<Vec<RowCopy>>, to: Vec<Option<To>>, layout: &Arc<Layout>) -> Reads {
    let (gguf, copies, layout) = (gguf.clone(), copies.clone(), layout.clone());
    let to = to.into_iter().chain(std::iter::repeat_with(|| None));
    let each = (0..copies.len()).zip(to).map(move |(index, to)| {
        let reading = copies[index].read(&gguf, &layout, to);
        async move { (index, reading.await.map_err(Error::from)) }
    });
    Box::pin(stream::iter(each).buffer_unordered(READS))
}

/// The next of reads that has come, or is waited for. Who does not wait is woken for it by the device's alarm.
#[allow(clippy::disallowed_methods, reason = "for functions named `blocking_*`")]
pub(super) fn next_read<T>(reads: &mut BoxStream<'static, T>, gpu: &Gpu, wait: bool) -> Poll<Option<T>> {
    match wait {
        true => Poll::Ready(pollster::block_on(reads.next())),
        false => reads.poll_next_unpin(&mut Context::from_waker(&gpu.waker())),
    }
}

#[cfg(all(test, feature = "demo-model"))]
mod tests {
    use super::*;
    use crate::gguf::{ReadAt, source};
    use crate::gpu::Selector;
    use std::collections::BTreeMap;
    use std::io;

    static DEMO: &[u8] = include_bytes!("../../assets/rust-docs-moe-q4_k_m.gguf");

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Event {
        Read(u64, u64),
        Forget(u64, u64),
    }

    /// The embedded model, and what was asked of it.
    #[derive(Clone, Default)]
    struct Recorded(Arc<Mutex<Vec<Event>>>);

    impl Recorded {
        fn gguf(&self) -> Gguf {
            Gguf::from_source("demo", DEMO, source(self.clone())).expect("the embedded model")
        }

        fn add(&self, event: Event) {
            self.0.lock().expect("no reader panics").push(event);
        }
    }

    impl ReadAt for Recorded {
        fn len(&self) -> u64 {
            DEMO.len() as u64
        }

        fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
            DEMO.read_at(offset, buf)?;
            self.add(Event::Read(offset, buf.len() as u64));
            Ok(())
        }

        fn forget(&self, offset: u64, len: u64) {
            self.add(Event::Forget(offset, len));
        }
    }

    fn gpu() -> Gpu {
        pollster::block_on(Gpu::new(Selector::Best)).expect("an adapter")
    }

    /// The model's matrices, placed and not yet read.
    fn placed<'a>(gguf: &'a Gguf, gpu: &'a Gpu, upload: Upload) -> Weights<'a> {
        let mut asking = Weights::new(gguf, gpu).expect("a buffer");
        crate::models::load(&mut asking).expect("a model");
        let mut weights = pollster::block_on(asking.read()).expect("a read");
        weights.upload_by(upload).expect("a device for it");
        crate::models::load(&mut weights).expect("a model");
        weights
    }

    /// What lies on the device where copies went, by tensor.
    fn device_bytes(gguf: &Gguf, gpu: &Gpu, upload: Upload) -> BTreeMap<String, Vec<u8>> {
        let weights = placed(gguf, gpu, upload);
        assert!(upload != Upload::Ring || weights.mapped.is_empty());
        let imports = weights.imports.iter().flat_map(|imports| imports.placed.iter().map(|(copy, _)| copy.clone()));
        let mut copies: Vec<RowCopy> = weights.copies.iter().cloned().chain(imports).collect();
        assert_eq!(copies.len() > weights.copies.len(), upload == Upload::Import);
        let filled = pollster::block_on(weights.fill(|_| true)).expect("a load");
        assert_eq!(filled.upload, upload);
        copies.sort_by_key(|copy| copy.first_row);
        let mut bytes: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        for copy in copies {
            let view = copy.view.slice(copy.to, copy.laid_bytes() as u64);
            bytes.entry(copy.tensor.name.clone()).or_default().extend(gpu.blocking_read::<u8>(&view).expect("bytes"));
        }
        bytes
    }

    #[test]
    fn weights_are_the_same_whichever_way_they_went() {
        let gguf = Recorded::default().gguf();
        // Whole tensors, and as a device would hold them that binds little.
        for gpu in [Some(gpu()), gpu().with_limits(100 << 10, 8)].map(|gpu| gpu.expect("a device of its own")) {
            if !gpu.has_mapped() {
                return;
            }
            let [ring, placed] = [Upload::Ring, Upload::InPlace].map(|upload| device_bytes(&gguf, &gpu, upload));
            let bytes: usize = ring.values().map(Vec::len).sum();
            assert!(bytes > 7 << 20 && ring.values().any(|bytes| bytes.iter().any(|b| *b != 0)));
            same(&ring, &placed);
        }
    }

    fn same(expected: &BTreeMap<String, Vec<u8>>, found: &BTreeMap<String, Vec<u8>>) {
        assert!(expected.keys().eq(found.keys()));
        found.iter().for_each(|(name, bytes)| assert!(expected[name] == *bytes, "{name} differs"));
    }

    #[test]
    fn weights_in_the_files_pages_are_those_that_are_copied() {
        let gpu = |limits: bool| match pollster::block_on(Gpu::importing(Selector::Best)) {
            Ok(gpu) if limits => gpu.with_limits(100 << 10, 8),
            Ok(gpu) => Some(gpu),
            Err(why) => {
                eprintln!("skipped: {why}");
                None
            }
        };
        let path = std::env::temp_dir().join(format!("halogen-import-{}.gguf", std::process::id()));
        std::fs::write(&path, DEMO).expect("a file");
        let gguf = Gguf::open(&path).expect("the embedded model");
        std::fs::remove_file(&path).expect("a file");
        for gpu in [false, true].into_iter().filter_map(gpu) {
            same(&device_bytes(&gguf, &gpu, Upload::Ring), &device_bytes(&gguf, &gpu, Upload::Import));
        }
    }

    #[test]
    fn a_cancelled_load_in_place_leaves_nothing_behind() {
        let (gguf, gpu) = (Recorded::default().gguf(), gpu());
        let weights = placed(&gguf, &gpu, Upload::on(&gpu));
        assert!(matches!(pollster::block_on(weights.fill(|progress| progress.bytes == 0)), Err(Error::Cancelled)));
        assert!(!device_bytes(&gguf, &gpu, Upload::on(&gpu)).is_empty());
    }

    #[test]
    fn what_was_read_is_forgotten_where_it_would_not_fit() {
        for upload in [Upload::Ring, Upload::on(&gpu())] {
            for keeps in [false, true] {
                let (recorded, gpu) = (Recorded::default(), gpu());
                let gguf = recorded.gguf();
                let weights = placed(&gguf, &gpu, upload);
                let copies = weights.copies.clone();
                recorded.0.lock().expect("no reader panics").clear();
                pollster::block_on(weights.fill_and(keeps, |_| true)).expect("a load");
                let events = recorded.0.lock().expect("no reader panics");
                let found = |event| events.iter().filter(|e| **e == event).count();
                for copy in &copies {
                    let (at, len) = (copy.tensor.offset + copy.offset(), copy.bytes() as u64);
                    assert_eq!(found(Event::Read(at, len)), 1, "{} from row {}", copy.tensor.name, copy.first_row);
                    assert_eq!(found(Event::Forget(at, len)), usize::from(!keeps), "{}", copy.tensor.name);
                    let place = |event| events.iter().position(|e| *e == event);
                    assert!(keeps || place(Event::Read(at, len)) < place(Event::Forget(at, len)));
                }
                let all = Event::Forget(0, DEMO.len() as u64);
                assert_eq!(events.last() == Some(&all), !keeps);
                assert_eq!(events.len(), if keeps { copies.len() } else { 2 * copies.len() + 1 });
            }
        }
    }

    #[test]
    fn pages_are_kept_where_the_file_and_what_lies_beside_it_fit() {
        for (shared, available, keeps) in [
            (true, Some(200), true),
            (true, Some(199), false),
            (false, Some(100), true),
            (false, Some(99), false),
            (true, None, true),
        ] {
            assert_eq!(keeps_pages(100, shared, available), keeps, "{shared} {available:?}");
        }
        assert!(!keeps_pages(u64::MAX, true, Some(u64::MAX - 1)));
    }
}
