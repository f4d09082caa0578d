//! What all cases share: random inputs, weights in any format, poisoned outputs, and the comparison.

use crate::dawn::Dawn;
pub use halogen::bench::random::Random;
use halogen::formats::Format;
use halogen::gpu::{DeviceClass, Gpu, Tier, View};
use halogen::ops::{self, Arithmetic, Matrix, Norm, Product, Scratch, Shard, Stack, Step, Tensor, Tuning, twins};
use std::collections::BTreeSet;
use std::sync::Arc;
use wgpu::BufferUsages as Usage;

/// What is wrong, in words.
pub type Outcome = Result<(), String>;

/// One test, to be run in several setups.
pub struct Case {
    pub name: String,
    /// Its matrix products, whose arithmetic differs by tier.
    pub products: Vec<(Product, Format)>,
    pub run: Box<dyn Fn(&Setup) -> Outcome + Send + Sync>,
}

impl Case {
    pub fn new(name: impl Into<String>, run: impl Fn(&Setup) -> Outcome + Send + Sync + 'static) -> Case {
        Case { name: name.into(), products: vec![], run: Box::new(run) }
    }

    /// With a matrix product of this kind and format.
    pub fn of_product(mut self, product: Product, format: Format) -> Case {
        self.products.push((product, format));
        self
    }

    /// Whether a product of it has a kernel in an arithmetic.
    pub fn takes(&self, arithmetic: Arithmetic) -> bool {
        self.products.iter().any(|(product, format)| arithmetic.has(*product, *format))
    }
}

/// The device, the tier of variants, and the kind of device whose tiles are used.
pub struct Setup {
    pub gpu: Gpu,
    pub tier: Tier,
    pub class: DeviceClass,
    /// The arithmetic of products that have it.
    pub force: Option<Arithmetic>,
    /// Executes in place of wgpu.
    pub dawn: Option<Arc<Dawn>>,
}

impl Setup {
    /// Whether products with matrices of a format take integer dot products.
    pub fn dot(&self, format: Format) -> bool {
        self.force == Some(Arithmetic::Dot) && format.has_integers()
    }

    /// Holds products with matrices of a format against the twin's. Sums of integer dot products have a rounding of their
    /// own for each 16 weights. Cooperative matrices and f16 tiles round weights and activations to f16, each by up to
    /// 2^-11 of itself: where the sums of a row cancel, little else is left of them, so that all rows are held as one.
    pub fn compare(&self, what: &str, got: &[f32], want: &[f32], columns: usize, format: Format) -> Outcome {
        match self.force {
            Some(Arithmetic::Matrix | Arithmetic::F16) => compare(what, got, want, want.len(), 2e-6),
            Some(Arithmetic::Dot) if format.has_integers() => compare(what, got, want, columns, 1e-6),
            _ => compare(what, got, want, columns, 1e-7),
        }
    }
}

/// The step's state, word for word as shaders/lib/state.wgsl declares it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct State {
    pub halt: u32,
    pub halt_layer: u32,
    pub position: u32,
    pub context: u32,
    pub generated: u32,
    pub limit: u32,
    pub last: u32,
    pub top_k: u32,
    pub temperature: f32,
    pub top_p: f32,
    pub min_p: f32,
    pub repeat_penalty: f32,
    pub repeat_last: u32,
    pub seed: u32,
    pub stop_count: u32,
    pub clock: u32,
    pub stop: [u32; 32],
}

impl State {
    /// Greedy, at `position` of a context of 4,096.
    pub fn at(position: usize) -> State {
        State {
            position: position as u32,
            context: 4096,
            limit: 1000,
            top_p: 1.0,
            repeat_penalty: 1.0,
            ..bytemuck::Zeroable::zeroed()
        }
    }
}

/// A NaN that no kernel computes.
pub const POISON: u32 = 0x7fc0_dead;

/// Words after an output that must stay poisoned.
const GUARD: usize = 64;

/// One step's buffers.
pub struct Rig<'s> {
    setup: &'s Setup,
    tokens: usize,
    pub state: View,
    pub history: View,
    scratch: Scratch,
    watched: Vec<View>,
    /// What the watched buffers held before the last run.
    pub before: Words,
    /// Arithmetics of the last run's kernels.
    used: BTreeSet<Arithmetic>,
    /// Of the last run.
    pub dispatches: usize,
}

/// Contents of several buffers.
pub type Words = Vec<Vec<u32>>;

impl<'s> Rig<'s> {
    /// For steps of `tokens` tokens, of which `history` holds the ids.
    pub fn new(setup: &'s Setup, tokens: usize, state: State, history: &[u32]) -> Rig<'s> {
        let usage = Usage::UNIFORM | Usage::STORAGE | Usage::COPY_SRC | Usage::COPY_DST;
        let view = setup.gpu.buffer_with("state", 192, usage).unwrap();
        setup.gpu.write(&view, 0, bytemuck::bytes_of(&state)).unwrap();
        let mut ids = history.to_vec();
        ids.resize(state.context as usize + 1, 0);
        let history = setup.gpu.upload("history", &ids).unwrap();
        Rig {
            setup,
            tokens,
            state: view,
            history,
            scratch: Scratch::new(tokens),
            watched: vec![],
            before: vec![],
            used: BTreeSet::new(),
            dispatches: 0,
        }
    }

    pub fn gpu(&self) -> &'s Gpu {
        &self.setup.gpu
    }

    /// Makes the scratch buffer `name` for `len` words, poisoned like the guard after them.
    pub fn poison(&mut self, name: &'static str, len: usize) {
        let view = self.scratch.bytes(&self.setup.gpu, name, ((len + GUARD) * 4) as u64).unwrap();
        self.setup.gpu.write(&view, 0, bytemuck::cast_slice(&vec![POISON; view.size as usize / 4])).unwrap();
        self.watched.push(view);
    }

    /// Adds to the buffers of [`Rig::snapshot`]; poisoned ones are there already.
    pub fn watch(&mut self, view: &View) {
        self.watched.push(view.clone());
    }

    /// What the watched buffers hold.
    pub fn snapshot(&self) -> Words {
        self.watched.iter().map(|view| self.setup.gpu.blocking_read(view).unwrap()).collect()
    }

    /// Records operators and runs them.
    pub fn run(&mut self, record: impl FnOnce(&mut Step) -> ops::Result<()>) -> Outcome {
        self.run_times(1, record)
    }

    /// Records operators once and runs them `times` times.
    pub fn run_times(&mut self, times: usize, record: impl FnOnce(&mut Step) -> ops::Result<()>) -> Outcome {
        self.before = self.snapshot();
        let Setup { gpu, tier, class, force, dawn } = self.setup;
        let mut step = Step::new(gpu, *tier, self.tokens, &self.state, &self.history, &mut self.scratch)
            .map_err(|e| e.to_string())?;
        step.tune(|tuning| *tuning = *Tuning::of(*class));
        force.iter().for_each(|arithmetic| step.force(*arithmetic));
        record(&mut step).map_err(|e| e.to_string())?;
        let recording = step.finish().map_err(|e| e.to_string())?;
        self.used = recording.dispatches.iter().map(|d| Arithmetic::of(&d.kernel.spec)).collect();
        self.dispatches = recording.dispatches.len();
        if let Some(dawn) = dawn {
            return dawn.run(gpu, &recording, times);
        }
        let all = 0..self.dispatches;
        let parts = vec![(&recording, all); times];
        gpu.submit_all(&parts, &[]).map_err(|e| e.to_string())?;
        Ok(())
    }

    /// The first `len` words of a scratch buffer, after its guard was found untouched.
    pub fn words(&self, name: &str, len: usize) -> Result<Vec<u32>, String> {
        let view = self.scratch.get(name).ok_or(format!("no operator made `{name}`"))?;
        guarded(self.gpu(), view, len)
    }

    /// As [`Rig::words`].
    pub fn floats(&self, name: &str, len: usize) -> Result<Vec<f32>, String> {
        Ok(self.words(name, len)?.into_iter().map(f32::from_bits).collect())
    }

    /// Whether a product with a matrix in `format` was computed in the setup's arithmetic, if there is a kernel of it.
    pub fn took(&self, product: Product, format: Format) -> Outcome {
        let wanted = self.setup.force.filter(|a| a.has(product, format));
        match wanted.filter(|a| !self.used.contains(a)) {
            Some(wanted) => Err(format!("no kernel of {wanted} was recorded")),
            None => Ok(()),
        }
    }

    /// What a product of matrices in `format` reads where f32 ones read `x`: on the tier `dot` what the device made in
    /// the buffer `name` of `seen`, its own x, which must be the twin's bits.
    pub fn read_by(&self, format: Format, name: &str, seen: &[f32], x: &[f32]) -> Result<Vec<f32>, String> {
        if !self.setup.dot(format) {
            return Ok(x.to_vec());
        }
        let view = self.scratch.get(name).ok_or(format!("no operator made `{name}`"))?;
        let words = self.gpu().blocking_read::<u32>(view).map_err(|e| e.to_string())?;
        let want = twins::quantise(seen);
        match words.iter().zip(&want).position(|(word, want)| word != want) {
            Some(at) => Err(format!("`{name}`: word {at} is {:#x} instead of {:#x}", words[at], want[at])),
            None => Ok(twins::dequantise(&want)),
        }
    }

    pub fn read_state(&self) -> State {
        self.gpu().blocking_read::<State>(&self.state).unwrap()[0]
    }
}

/// The first `len` words of a view whose others must be poison.
pub fn guarded(gpu: &Gpu, view: &View, len: usize) -> Result<Vec<u32>, String> {
    let mut words = gpu.blocking_read::<u32>(view).map_err(|e| e.to_string())?;
    match words[len..].iter().position(|w| *w != POISON) {
        Some(at) => Err(format!("word {} after the output's {len} was written: {:#x}", at + len, words[at + len])),
        None => {
            words.truncate(len);
            Ok(words)
        }
    }
}

/// A buffer of `data` and a poisoned guard.
pub fn upload_guarded(gpu: &Gpu, name: &str, data: &[f32]) -> View {
    let mut words: Vec<u32> = data.iter().map(|x| x.to_bits()).collect();
    words.resize((words.len() + GUARD).next_multiple_of(4), POISON);
    gpu.upload(name, &words).unwrap()
}

/// Weights [rows, columns] as in a file, and their values.
pub struct Weights {
    pub format: Format,
    pub columns: usize,
    pub bytes: Vec<u8>,
    pub values: Vec<f32>,
}

impl Weights {
    /// Random blocks, whatever the format: random bytes, of which those stay that decode to numbers of a usual size.
    pub fn random(random: &mut Random, format: Format, rows: usize, columns: usize) -> Weights {
        let (block, block_bytes) = (format.block(), format.block_bytes());
        let mut pool: Vec<Vec<u8>> = Vec::new();
        let mut values = vec![0.0; block];
        while pool.len() < if block == 1 { 512 } else { 64 } {
            let bytes: Vec<u8> = (0..block_bytes).map(|_| random.word() as u8).collect();
            format.decode(&bytes, &mut values);
            let high = values.iter().fold(0f32, |high, v| if v.is_finite() { high.max(v.abs()) } else { f32::MAX });
            if (0.02..2.0).contains(&high) {
                pool.push(bytes);
            }
        }
        let blocks = rows * columns / block;
        let bytes: Vec<u8> = (0..blocks).flat_map(|_| pool[random.below(pool.len())].clone()).collect();
        let mut values = vec![0.0; rows * columns];
        format.decode(&bytes, &mut values);
        Weights { format, columns, bytes, values }
    }

    pub fn rows(&self) -> usize {
        self.values.len() / self.columns
    }

    /// Rows `first .. first + count` in the device layout.
    fn shard(&self, gpu: &Gpu, first: usize, count: usize) -> View {
        let row = self.format.row_bytes(self.columns);
        let mut relaid = vec![0xff; count * self.format.device_row_bytes(self.columns)];
        self.format.relay(self.columns, &self.bytes[first * row..][..count * row], &mut relaid);
        gpu.upload("weights", &relaid).unwrap()
    }

    pub fn matrix(&self, gpu: &Gpu, shards: usize) -> Matrix {
        let rows = self.rows();
        let shards = cut(rows, shards)
            .map(|(first, count)| Shard { view: self.shard(gpu, first, count), first, count })
            .collect();
        Matrix { format: self.format, rows, columns: self.columns, shards, stage: None }
    }

    /// The rows as those of `experts` matrices, which lie backwards in their shards.
    pub fn stack(&self, gpu: &Gpu, experts: usize, shards: usize) -> Stack {
        let rows = self.rows() / experts;
        let mut table = vec![[0u32; 2]; experts];
        let shards = cut(experts, shards)
            .enumerate()
            .map(|(index, (first, count))| {
                let bytes = rows * self.format.row_bytes(self.columns);
                let mut backwards = Vec::new();
                for slot in 0..count {
                    let expert = first + count - 1 - slot;
                    table[expert] = [index as u32, slot as u32];
                    backwards.extend_from_slice(&self.bytes[expert * bytes..][..bytes]);
                }
                let part = Weights { format: self.format, columns: self.columns, bytes: backwards, values: vec![] };
                Shard { view: part.shard(gpu, 0, count * rows), first, count }
            })
            .collect();
        let table = gpu.upload("experts", &table).unwrap();
        let stride = (self.format.device_row_bytes(self.columns) * rows) as u64;
        Stack { format: self.format, experts, rows, columns: self.columns, shards, stride, table, stamps: None }
    }
}

/// The rows as those of `heads` matrices, one head after another.
pub fn in_order(weights: &Weights, gpu: &Gpu, heads: usize, shards: usize) -> Stack {
    let (rows, columns) = (weights.rows() / heads, weights.columns);
    let shards = cut(heads, shards)
        .map(|(first, count)| Shard { view: weights.shard(gpu, first * rows, count * rows), first, count })
        .collect();
    let table = gpu.upload("experts", &vec![[0u32; 2]; heads]).unwrap();
    let stride = (weights.format.device_row_bytes(columns) * rows) as u64;
    Stack { format: weights.format, experts: heads, rows, columns, shards, stride, table, stamps: None }
}

/// `parts` runs of `0..n`, uneven: (first, count).
fn cut(n: usize, parts: usize) -> impl Iterator<Item = (usize, usize)> {
    let at = move |i: usize| if i == parts { n } else { n * i / parts + usize::from(i > 0 && n > 2 * parts) };
    (0..parts).map(move |i| (at(i), at(i + 1) - at(i)))
}

/// Activations on the device, with a guard.
pub fn tensor(gpu: &Gpu, data: &[f32], columns: usize) -> Tensor {
    Tensor { first_row: 0, view: upload_guarded(gpu, "activations", data), rows: data.len() / columns, columns }
}

/// Norm weights on the device, and their values.
pub fn norm(gpu: &Gpu, random: &mut Random, columns: usize) -> (Norm, Vec<f32>) {
    let weight: Vec<f32> = random.floats(columns).iter().map(|w| 1.0 + 0.2 * w).collect();
    (Norm { weight: gpu.upload("norm", &weight).unwrap(), columns, eps: 1e-5 }, weight)
}

/// Holds rows of `columns` against the twin's: NMSE, the sum of (x - y)^2 over the sum of (x - mean x)^2, of the worst
/// row. A row of one value is held to the same relative error.
pub fn compare(what: &str, got: &[f32], want: &[f32], columns: usize, tolerance: f64) -> Outcome {
    if got.len() != want.len() {
        return Err(format!("{what}: {} values, the twin has {}", got.len(), want.len()));
    }
    for (r, (got, want)) in got.chunks(columns).zip(want.chunks(columns)).enumerate() {
        let mean =
            if want.len() > 2 { want.iter().map(|x| f64::from(*x)).sum::<f64>() / want.len() as f64 } else { 0.0 };
        let power: f64 = want.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum();
        let error: f64 = got.iter().zip(want).map(|(x, y)| (f64::from(*x) - f64::from(*y)).powi(2)).sum();
        // Also where all values are alike or zero: what rounding leaves.
        let floor = want.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() * 1e-12 + 1e-24;
        let near = error <= tolerance * power + floor; // a NaN is not
        if !near {
            let worst = (0..got.len()).max_by(|a, b| {
                let off = |i: usize| (got[i] - want[i]).abs();
                let off = |i: usize| if off(i).is_nan() { f32::MAX } else { off(i) };
                off(*a).total_cmp(&off(*b))
            });
            let worst = worst.unwrap();
            let near = |i: &usize| (got[*i] - want[*i]).abs() <= 1e-3 * want[*i].abs() + 1e-3;
            let wrong = got.len() - (0..got.len()).filter(near).count();
            return Err(format!(
                "{what}: row {r}: NMSE {:.1e} above {tolerance:.0e}; {wrong} of {} values are off; column {worst}: {} instead of {}",
                error / power,
                got.len(),
                got[worst],
                want[worst]
            ));
        }
    }
    Ok(())
}
