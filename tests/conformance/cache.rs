//! Caches of any format, as tests fill and read them.

use halogen::gpu::Gpu;
use halogen::ops::{KvFormat, KvRows, KvUse, twins};

/// NaN as an f32, as two f16, and as two scales.
pub const UNWRITTEN: u32 = 0x7fff_7fff;

/// The rows of keys or values of a cache.
pub struct Rows {
    pub rows: usize,
    pub heads: usize,
    pub dim: usize,
    pub format: KvFormat,
}

impl Rows {
    /// The words of each plane that a row has.
    fn of_row(&self, row: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
        let [values, scales] = self.planes();
        let scales_at = self.rows * values + row * scales;
        [row * values..(row + 1) * values, scales_at..scales_at + scales].into_iter()
    }

    /// Words of each plane that a row has.
    pub fn planes(&self) -> [usize; 2] {
        self.format.planes(self.heads, self.dim).map(|bytes| bytes as usize / 4)
    }

    /// Words of a cache that holds the rows of `data` at `place`, the later in place of the earlier, and nothing else.
    pub fn words(&self, data: &[f32], place: impl Fn(usize) -> usize) -> Vec<u32> {
        let one = Rows { rows: 1, ..*self };
        let bytes = self.format.row_bytes(self.heads, self.dim) as usize;
        let mut words = vec![UNWRITTEN; self.rows * bytes / 4];
        for (i, row) in data.chunks_exact((self.heads * self.dim).max(1)).enumerate() {
            let made = twins::cached(row, self.dim, self.format);
            for (to, from) in self.of_row(place(i)).zip(one.of_row(0)) {
                words[to].copy_from_slice(&made[from]);
            }
        }
        words
    }

    /// The values of a row, which is unwritten from then on.
    pub fn take(&self, words: &mut [u32], row: usize) -> Vec<f32> {
        let mut planes = self.of_row(row).map(|range| {
            let plane = words[range.clone()].to_vec();
            words[range].fill(UNWRITTEN);
            plane
        });
        let (values, scales) = (planes.next().expect("values"), planes.next().expect("scales"));
        let halves = |words: &[u32]| -> Vec<f32> {
            bytemuck::cast_slice::<u32, half::f16>(words).iter().map(|x| x.to_f32()).collect()
        };
        match self.format {
            KvFormat::F32 => values.iter().map(|w| f32::from_bits(*w)).collect(),
            KvFormat::F16 => halves(&values),
            KvFormat::Q8_0 => {
                let of_head = scales.len() / self.heads.max(1);
                let scale = |block: usize| {
                    let (head, block) = (block / (self.dim / 32), block % (self.dim / 32));
                    halves(&scales[head * of_head..][..of_head])[block]
                };
                let q: &[i8] = bytemuck::cast_slice(&values);
                q.iter().enumerate().map(|(i, q)| f32::from(*q) * scale(i / 32)).collect()
            }
        }
    }
}

/// A cache of rows of `planes` words in each of two planes, which lie behind each other in `whole` as in each shard.
pub struct Cut {
    pub rows: KvRows,
    planes: [usize; 2],
    count: usize,
    whole: Vec<u32>,
}

impl Cut {
    /// In so many shards, if the device binds them.
    pub fn new(gpu: &Gpu, whole: Vec<u32>, held: &Rows, shards: usize, reads: KvUse) -> Cut {
        let each = held.rows.div_ceil(shards.min(reads.most_shards(gpu.caps().storage_buffers))).max(1);
        let rows = KvRows { shards: vec![], each, grows_to: None };
        let mut cut = Cut { rows, planes: held.planes(), count: held.rows, whole };
        let words = |at| cut.places(at).flat_map(|place| cut.whole[place].to_vec()).collect::<Vec<u32>>();
        let shards = (0..held.rows.div_ceil(each)).map(|at| gpu.upload("cache", &words(at)).unwrap());
        cut.rows.shards = shards.collect();
        cut
    }

    /// Where the words of a shard lie in the whole; the last has what is behind the rows, too.
    fn places(&self, shard: usize) -> impl Iterator<Item = std::ops::Range<usize>> + use<> {
        let ([values, scales], count, all) = (self.planes, self.count, self.whole.len());
        let rows = shard * self.rows.each..count.min((shard + 1) * self.rows.each);
        let behind = if rows.end == count { count * (values + scales)..all } else { 0..0 };
        let plane = |start: usize, row: usize| start + rows.start * row..start + rows.end * row;
        [plane(0, values), plane(count * values, scales), behind].into_iter()
    }

    /// What the shards hold now, as one.
    pub fn words(&self, gpu: &Gpu) -> Vec<u32> {
        let mut whole = self.whole.clone();
        for (at, shard) in self.rows.shards.iter().enumerate() {
            let mut words = gpu.blocking_read::<u32>(shard).unwrap().into_iter();
            let places = self.places(at).flatten();
            places.for_each(|place| whole[place] = words.next().expect("a word that was uploaded"));
        }
        whole
    }
}

/// In how many shards a case runs: some in as many as kernels are made for.
pub fn shards(some: bool) -> &'static [usize] {
    if some { &[1, 2, 4] } else { &[1] }
}

/// What a case's name says of them.
pub fn in_shards(shards: usize) -> String {
    if shards == 1 { String::new() } else { format!("/cut={shards}") }
}

pub fn name(format: KvFormat) -> &'static str {
    match format {
        KvFormat::F32 => "f32",
        KvFormat::F16 => "f16",
        KvFormat::Q8_0 => "q8_0",
    }
}

/// Those that keep heads of `dim` values.
pub fn formats(dim: usize) -> Vec<KvFormat> {
    let all = [KvFormat::F16, KvFormat::F32, KvFormat::Q8_0];
    all.into_iter().filter(|format| dim.is_multiple_of(format.block())).collect()
}
