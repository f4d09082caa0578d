//! A step of one operator, recorded once for each copy of its inputs: what it leaves, held against its twin, and what its
//! kernels cost.

use super::{Setting, Work};
use crate::bench::{Error, Result};
use crate::gpu::{DeviceProfile, Gpu, KernelSpec, Recording, View};
use crate::ops::{self, Arithmetic, BLOCK, BLOCK_WORDS, KvFormat, KvLayer, KvRows, Scratch, Step, Tensor, twins};
use crate::session::State;
use bytemuck::Pod;

/// Records the operator on a copy of its inputs.
pub type Record = Box<dyn Fn(&mut Step, usize) -> ops::Result<()>>;
/// NMSE of what the first copy left, if it is right.
pub type Check = Box<dyn Fn(&Found) -> Result<f64>>;

/// An operator with its inputs on the device.
pub struct Made {
    pub copies: usize,
    pub tokens: usize,
    /// With the positions that are cached before the step.
    pub state: State,
    /// Token ids of the step.
    pub ids: Vec<u32>,
    /// What runs change, and what it holds before the first.
    pub fresh: Vec<(View, Vec<u8>)>,
    pub record: Record,
    pub check: Check,
}

/// Room for the tokens that a sampling kernel appends while it is timed.
const CONTEXT: u32 = 1 << 20;

/// A state at `position` that nothing halts.
pub fn state(position: usize) -> State {
    State {
        position: position as u32,
        context: CONTEXT,
        limit: u32::MAX,
        top_p: 1.0,
        repeat_penalty: 1.0,
        ..State::default()
    }
}

impl Made {
    pub fn new(
        copies: usize,
        tokens: usize,
        position: usize,
        record: impl Fn(&mut Step, usize) -> ops::Result<()> + 'static,
        check: impl Fn(&Found) -> Result<f64> + 'static,
    ) -> Made {
        let (record, check): (Record, Check) = (Box::new(record), Box::new(check));
        Made { copies, tokens, state: state(position), ids: vec![], fresh: vec![], record, check }
    }

    /// With a buffer that runs change.
    pub fn fresh<T: bytemuck::NoUninit>(mut self, view: &View, data: &[T]) -> Made {
        self.fresh.push((view.clone(), bytemuck::cast_slice(data).to_vec()));
        self
    }
}

/// NMSE that f32 paths keep (sums may be long), and integer dot products on rounded inputs; and those of f16.
const TOLERANCE: f64 = 1e-6;
const TOLERANCE_F16: f64 = 5e-4;

/// A recorded step.
pub struct Rig<'g> {
    gpu: &'g Gpu,
    name: String,
    state: View,
    history: View,
    scratch: Scratch,
    pub recording: Recording,
    /// Dispatches of one copy.
    dispatches: usize,
}

impl<'g> Rig<'g> {
    pub fn new(gpu: &'g Gpu, made: &Made, setting: Setting, limits: DeviceProfile, name: &str) -> Result<Rig<'g>> {
        use wgpu::BufferUsages as Usage;
        let usage = Usage::UNIFORM | Usage::STORAGE | Usage::COPY_SRC | Usage::COPY_DST;
        let state = gpu.buffer_with("state", size_of::<State>() as u64, usage)?;
        let history = gpu.buffer("history", u64::from(made.state.context + 1) * 4)?;
        let mut scratch = Scratch::new(made.tokens);
        let mut step = Step::new(gpu, setting.tier, made.tokens, &state, &history, &mut scratch)?;
        step.set_profile(limits);
        setting.force.into_iter().for_each(|arithmetic| step.force(arithmetic));
        for copy in 0..made.copies {
            (made.record)(&mut step, copy)?;
        }
        let recording = step.finish()?;
        let dispatches = recording.dispatches.len() / made.copies;
        Ok(Rig { gpu, name: name.into(), state, history, scratch, recording, dispatches })
    }

    /// The kernels of one copy.
    pub fn specs(&self) -> impl Iterator<Item = &KernelSpec> {
        self.recording.dispatches[..self.dispatches].iter().map(|d| &d.kernel.spec)
    }

    /// That of the products: the narrowest of the kernels.
    pub fn arithmetic(&self) -> Arithmetic {
        self.specs().map(Arithmetic::of).max().unwrap_or(Arithmetic::F32)
    }

    /// The shaders of one copy's dispatches, numbered where one is there several times.
    pub fn labels(&self) -> Vec<String> {
        let shaders: Vec<&str> = self.specs().map(|spec| spec.shader).collect();
        let label = |at: usize| {
            let same = |all: &[&str]| all.iter().filter(|s| **s == shaders[at]).count();
            let shader = shaders[at];
            if same(&shaders) > 1 { format!("{shader} {}", same(&shaders[..=at])) } else { shader.into() }
        };
        (0..shaders.len()).map(label).collect()
    }

    /// What one dispatch moves and computes, by its own account.
    pub fn part(&self, at: usize, made: &Made) -> (Arithmetic, Work) {
        let dispatch = &self.recording.dispatches[at];
        // Tokens see the positions up to their own: half of the step's on average.
        let positions = made.state.position as usize + made.tokens.div_ceil(2);
        let flops = dispatch.cost.flops + dispatch.cost.position_flops * positions as u64;
        let work = Work { kept: dispatch.cost.weight_bytes, bytes: dispatch.cost.bytes(positions), flops };
        (Arithmetic::of(&dispatch.kernel.spec), work)
    }

    /// Runs the first copy, and holds what it left against the twin.
    pub fn check(&self, made: &Made) -> Result<f64> {
        self.gpu.write(&self.state, 0, bytemuck::bytes_of(&made.state))?;
        let ids = made.state.position as u64 * 4;
        self.gpu.write(&self.history, ids, bytemuck::cast_slice(&made.ids))?;
        for (view, data) in &made.fresh {
            self.gpu.write(view, 0, data)?;
        }
        self.gpu.submit(&self.recording, 0..self.dispatches, &[])?;
        (made.check)(&Found(self))
    }

    /// Fails if a run halted, which is no time of it.
    pub fn ran(&self) -> Result<()> {
        match self.gpu.blocking_read::<State>(&self.state)?[0].halt {
            0 => Ok(()),
            halt => {
                Err(Error::Wrong { name: self.name.clone(), what: format!("it halted ({halt}) while it was timed") })
            }
        }
    }
}

/// What the first copy left.
pub struct Found<'r>(&'r Rig<'r>);

impl Found<'_> {
    /// A scratch buffer.
    pub fn scratch<T: Pod>(&self, name: &str) -> Result<Vec<T>> {
        match self.0.scratch.get(name) {
            Some(view) => self.read(view),
            None => Err(self.wrong(format!("no operator made `{name}`"))),
        }
    }

    pub fn read<T: Pod>(&self, view: &View) -> Result<Vec<T>> {
        Ok(self.0.gpu.blocking_read(view)?)
    }

    /// The state after the run, and the history.
    pub fn state(&self) -> Result<(State, Vec<u32>)> {
        Ok((self.read::<State>(&self.0.state)?[0], self.read(&self.0.history)?))
    }

    /// What products read in place of x: where they are integer dot products what the device rounded into the scratch buffer
    /// `name`, no value by more than half a step.
    pub fn rounded(&self, name: &str, x: &[f32]) -> Result<Vec<f32>> {
        if self.0.scratch.get(name).is_none() {
            return Ok(x.to_vec());
        }
        let words = self.scratch::<u32>(name)?;
        let words = &words[..x.len() / BLOCK * BLOCK_WORDS];
        let got = twins::dequantise(words);
        let step = |i: usize| f32::from_bits(words[i / BLOCK * BLOCK_WORDS + 8]);
        let near = |i: &usize| (x[*i] - got[*i]).abs() <= 0.51 * step(*i) + 1e-6 * x[*i].abs();
        match (0..x.len()).find(|i| !near(i)) {
            Some(i) => Err(self.wrong(format!("`{name}`: {} was rounded to {}", x[i], got[i]))),
            None => Ok(got),
        }
    }

    /// NMSE of (found, expected), which must not exceed the tolerance of the arithmetic.
    pub fn hold(&self, what: &str, pairs: &[(f32, f32)]) -> Result<f64> {
        let tolerance = match self.0.arithmetic() {
            Arithmetic::F32 | Arithmetic::Dot => TOLERANCE,
            Arithmetic::F16 | Arithmetic::Matrix => TOLERANCE_F16,
        };
        let mean = pairs.iter().map(|(_, want)| f64::from(*want)).sum::<f64>() / pairs.len() as f64;
        let power: f64 = pairs.iter().map(|(_, want)| (f64::from(*want) - mean).powi(2)).sum();
        let error: f64 = pairs.iter().map(|(got, want)| (f64::from(*got) - f64::from(*want)).powi(2)).sum();
        let nmse = error / power.max(1e-30);
        if nmse <= tolerance {
            return Ok(nmse);
        }
        Err(self.wrong(format!("{what}: NMSE {nmse:.1e} against the twin, at most {tolerance:.0e} is right")))
    }

    pub fn wrong(&self, what: String) -> Error {
        Error::Wrong { name: self.0.name.clone(), what }
    }
}

/// Activations [rows, columns].
pub fn tensor(gpu: &Gpu, data: &[f32], columns: usize) -> Result<Tensor> {
    Ok(Tensor { view: gpu.upload("activations", data)?, first_row: 0, rows: data.len() / columns, columns })
}

/// Keys and values in f16, and of an indexer its keys.
pub fn cache(gpu: &Gpu, k: &[f32], v: Option<&[f32]>, index: Option<&[f32]>) -> Result<KvLayer> {
    let upload = |data: &[f32]| {
        let halves: Vec<half::f16> = data.iter().map(|x| half::f16::from_f32(*x)).collect();
        gpu.upload("cache", &halves).map(KvRows::from)
    };
    let (v, index) = (v.map(upload).transpose()?, index.map(upload).transpose()?);
    Ok(KvLayer { k: upload(k)?, v, index, format: KvFormat::F16, ring: None })
}

/// What such a cache holds.
pub fn halves(found: &Found, rows: &KvRows) -> Result<Vec<f32>> {
    Ok(found.read::<half::f16>(&rows.shards[0])?.iter().map(|x| x.to_f32()).collect())
}

/// At most `most` of `0..n`, evenly spread, the first and the last among them.
pub fn spread(n: usize, most: usize) -> impl Iterator<Item = usize> {
    let count = n.min(most);
    (0..count).map(move |i| if count == 1 { 0 } else { i * (n - 1) / (count - 1) })
}
