//! A recording: an ordered list of dispatches, as data. Made once, printed, counted, cut and replayed.

use super::{BindingKind, Cost, DeviceProfile, Error, Gpu, Kernel, KernelSpec, Result, View};
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// A kernel's uniform parameters: a `#[repr(C)]` struct whose fields must lie as naga lays the WGSL struct `Params`.
pub trait Params: bytemuck::Pod {
    /// Names and byte offsets, in order.
    const FIELDS: &'static [(&'static str, usize)];
}

/// Declares a parameter struct with 4-byte fields; every recording holds it against the shader's own declaration.
macro_rules! params {
    ($(#[$meta:meta])* $name:ident { $($field:ident: $ty:ty),* $(,)? }) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, bytemuck::Pod, bytemuck::Zeroable)]
        pub(crate) struct $name { $(pub(crate) $field: $ty),* }
        impl $crate::gpu::Params for $name {
            const FIELDS: &'static [(&'static str, usize)] =
                &[$((stringify!($field), std::mem::offset_of!($name, $field))),*];
        }
    };
}
pub(crate) use params;

/// How many workgroups run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid(pub [u32; 3]);

/// The default limit of workgroups a dimension, and Metal's and DX12's.
const MAX_GROUPS: u64 = 65_535;

/// A dispatch is cut into no more slices than this.
const MOST_SLICES: f64 = 64.0;

impl Grid {
    /// At most `count` slices along x (of a folded grid, whole): each the linear index of its first workgroup, and its
    /// grid, which is not folded.
    fn slices(self, count: u64) -> Vec<(u32, Grid)> {
        let Grid([x, y, z]) = self;
        let groups = u64::from(x) * u64::from(y);
        if count <= 1 || groups <= 1 {
            return vec![(0, self)];
        }
        let each = groups.div_ceil(count).min(MAX_GROUPS) as u32;
        let slice = |first: u32| (first, Grid([each.min((groups - u64::from(first)) as u32), 1, z]));
        (0..groups as u32).step_by(each as usize).map(slice).collect()
    }

    /// `count` workgroups along x, folded into y above 65,535 (the shader tests its linear index against the count),
    /// times `depth` along z. What no grid can hold is refused when it is recorded.
    pub fn linear(count: u64, depth: u64) -> Grid {
        let folds = count.div_ceil(MAX_GROUPS).max(1);
        Grid([count.div_ceil(folds), folds, depth].map(|n| n.min(u64::from(u32::MAX)) as u32))
    }

    fn fits(self) -> bool {
        self.0.iter().all(|n| u64::from(*n) <= MAX_GROUPS)
    }
}

/// One dispatch to record.
pub struct Call<'a, P> {
    pub spec: KernelSpec,
    /// Buffers by the names of the shader's bindings; `state`, `params` and `codebook` come from the recorder.
    pub bind: &'a [(&'static str, &'a View)],
    pub params: P,
    pub grid: Grid,
    pub cost: Cost,
}

/// A recorded dispatch.
pub struct Dispatch {
    pub kernel: Arc<Kernel>,
    pub bindings: Vec<(String, View)>,
    pub grid: Grid,
    pub cost: Cost,
    pub layer: u32,
    params_offset: u32,
    bind_group: wgpu::BindGroup,
}

/// Builds a [`Recording`].
pub struct Recorder<'g> {
    gpu: &'g Gpu,
    state: View,
    layer: u32,
    pending: Vec<Pending>,
    arena: Vec<u8>,
    survey: Option<BTreeSet<KernelSpec>>,
    slice: Option<(f64, usize, DeviceProfile)>,
}

struct Pending {
    kernel: Arc<Kernel>,
    bindings: Vec<(String, View)>,
    grid: Grid,
    cost: Cost,
    layer: u32,
    params_offset: u32,
}

impl<'g> Recorder<'g> {
    /// `state` is bound wherever a shader names it.
    pub fn new(gpu: &'g Gpu, state: View) -> Self {
        Recorder { gpu, state, layer: 0, pending: Vec::new(), arena: Vec::new(), survey: None, slice: None }
    }

    pub fn gpu(&self) -> &'g Gpu {
        self.gpu
    }

    /// Dispatches that follow belong to `layer`.
    pub fn enter_layer(&mut self, layer: u32) {
        self.layer = layer;
    }

    /// The layer that was entered last.
    pub fn layer(&self) -> u32 {
        self.layer
    }

    /// From here on dispatches are not recorded: only which kernels they need is noted.
    pub fn survey(&mut self) {
        self.survey = Some(BTreeSet::new());
    }

    /// The kernels noted since [`Recorder::survey`].
    pub fn surveyed(self) -> BTreeSet<KernelSpec> {
        self.survey.unwrap_or_default()
    }

    /// Adds one dispatch.
    pub fn call<P: Params>(&mut self, call: Call<P>) -> Result<()> {
        if let Some(specs) = &mut self.survey {
            specs.insert(call.spec);
            return Ok(());
        }
        let kernel = self.gpu.kernel(&call.spec)?;
        check_params::<P>(&kernel)?;
        if !call.grid.fits() {
            return Err(Error::Grid { kernel: kernel.spec.to_string(), grid: call.grid.0 });
        }
        for (name, _) in call.bind {
            if !kernel.bindings.iter().any(|b| b.name == *name) {
                return Err(Error::NoBinding { kernel: kernel.spec.to_string(), name, has: kernel.error_bindings() });
            }
        }
        let mut bindings = Vec::with_capacity(kernel.bindings.len());
        for binding in &kernel.bindings {
            let given = call.bind.iter().find(|(name, _)| *name == binding.name).map(|(_, view)| (*view).clone());
            match (binding.name.as_str(), given) {
                ("params", _) => {}
                (_, Some(view)) => bindings.push((binding.name.clone(), view)),
                ("state", None) => bindings.push((binding.name.clone(), self.state.clone())),
                ("codebook", None) => bindings.push((binding.name.clone(), self.gpu.codebook(&call.spec)?)),
                (name, None) => {
                    return Err(Error::Unbound { kernel: kernel.spec.to_string(), name: name.into() });
                }
            }
        }
        let Call { grid, cost, params, .. } = call;
        let first_group = P::FIELDS.iter().find(|(name, _)| *name == "first_group").map(|(_, at)| *at);
        let slices = match first_group {
            Some(_) => grid.slices(self.slices_for(&cost)),
            None => vec![(0, grid)],
        };
        let share = cost / slices.len() as u64;
        for (first, grid) in slices {
            let mut bytes = bytemuck::bytes_of(&params).to_vec();
            if let Some(at) = first_group {
                bytes[at..at + 4].copy_from_slice(&first.to_ne_bytes());
            }
            let params_offset = self.place_params(&bytes);
            let (kernel, bindings, layer) = (kernel.clone(), bindings.clone(), self.layer);
            self.pending.push(Pending { kernel, bindings, grid, cost: share, layer, params_offset });
        }
        Ok(())
    }

    fn place_params(&mut self, bytes: &[u8]) -> u32 {
        let alignment = self.gpu.caps().uniform_alignment as usize;
        self.arena.resize(self.arena.len().next_multiple_of(alignment), 0);
        let offset = self.arena.len() as u32;
        self.arena.extend_from_slice(bytes);
        offset
    }

    /// From here on a dispatch that is estimated above `seconds` where `positions` are cached is recorded in slices of its
    /// grid, if its kernel has a `first_group`. A workgroup computes the same whatever its slice, so no bit changes.
    pub fn slice(&mut self, seconds: f64, positions: usize, limits: DeviceProfile) {
        self.slice = Some((seconds, positions, limits));
    }

    fn slices_for(&self, cost: &Cost) -> u64 {
        let Some((bound, positions, limits)) = &self.slice else { return 1 };
        (2.0 * cost.seconds(*positions, limits) / bound).ceil().clamp(1.0, MOST_SLICES) as u64
    }

    /// Writes the parameter arena and makes the bind groups.
    pub fn finish(self) -> Result<Recording> {
        let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
        let arena = self.gpu.buffer_with("parameters", self.arena.len() as u64, usage)?;
        self.gpu.write(&arena, 0, &self.arena)?;
        let mut dispatches = Vec::with_capacity(self.pending.len());
        for pending in self.pending {
            let Pending { kernel, bindings, grid, cost, layer, params_offset } = pending;
            let bind_group = bind_group(self.gpu, &kernel, &bindings, &arena)?;
            dispatches.push(Dispatch { kernel, bindings, grid, cost, layer, params_offset, bind_group });
        }
        Ok(Recording { dispatches })
    }
}

fn check_params<P: Params>(kernel: &Kernel) -> Result<()> {
    let same = kernel.params.len() == P::FIELDS.len()
        && kernel.params.iter().zip(P::FIELDS).all(|((name, at), (n, o))| name == n && *at as usize == *o);
    if same {
        return Ok(());
    }
    let message = format!("host parameters {:?} do not lie as the shader's {:?}", P::FIELDS, kernel.params);
    Err(Error::Shader { kernel: kernel.spec.to_string(), message })
}

fn bind_group(gpu: &Gpu, kernel: &Kernel, bindings: &[(String, View)], arena: &View) -> Result<wgpu::BindGroup> {
    let mut entries = Vec::with_capacity(kernel.bindings.len());
    for binding in &kernel.bindings {
        let resource = if binding.name == "params" {
            wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                buffer: &arena.buffer,
                offset: 0,
                size: wgpu::BufferSize::new(kernel.params_size),
            })
        } else {
            let (_, view) = bindings.iter().find(|(name, _)| *name == binding.name).expect("bound by `call`");
            view.binding()
        };
        entries.push(wgpu::BindGroupEntry { binding: binding.index, resource });
    }
    let name = kernel.spec.to_string();
    let descriptor = wgpu::BindGroupDescriptor { label: Some(&name), layout: &kernel.layout, entries: &entries };
    gpu.scoped(&name, |device| device.create_bind_group(&descriptor))
}

/// Dispatches in order, ready to be submitted any number of times.
pub struct Recording {
    pub dispatches: Vec<Dispatch>,
}

impl Recording {
    /// What all dispatches must move and compute.
    pub fn cost(&self) -> Cost {
        self.dispatches.iter().fold(Cost::default(), |sum, d| sum + d.cost)
    }

    /// Parts of a range that stay within `bound` seconds each where `positions` are cached. Estimates are the limits doubled: no
    /// kernel reaches them.
    pub fn cut(&self, range: Range<usize>, positions: usize, limits: &DeviceProfile, bound: f64) -> Vec<Range<usize>> {
        let estimate = |d: &Dispatch| 2.0 * d.cost.seconds(positions, limits);
        let estimates: Vec<f64> = self.dispatches[range.clone()].iter().map(estimate).collect();
        let parts = super::cut(&estimates, bound).into_iter();
        parts.map(|part| range.start + part.start..range.start + part.end).collect()
    }

    /// The index of the first dispatch of `layer`.
    pub fn layer_start(&self, layer: u32) -> Option<usize> {
        self.dispatches.iter().position(|d| d.layer == layer)
    }

    pub(crate) fn encode(&self, range: Range<usize>, pass: &mut wgpu::ComputePass) {
        let mut last: Option<&Arc<Kernel>> = None;
        for dispatch in &self.dispatches[range] {
            dispatch.encode(pass, last.is_some_and(|k| Arc::ptr_eq(k, &dispatch.kernel)));
            last = Some(&dispatch.kernel);
        }
    }
}

impl Dispatch {
    pub(super) fn encode(&self, pass: &mut wgpu::ComputePass, same_pipeline: bool) {
        if !same_pipeline {
            pass.set_pipeline(&self.kernel.pipeline);
        }
        let has_params = self.kernel.params_size > 0;
        pass.set_bind_group(
            0,
            &self.bind_group,
            if has_params { std::slice::from_ref(&self.params_offset) } else { &[] },
        );
        let [x, y, z] = self.grid.0;
        pass.dispatch_workgroups(x, y, z);
    }
}

impl fmt::Display for Recording {
    /// One line a dispatch: its layer, kernel, grid, bytes and bindings (`=` where it writes).
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for d in &self.dispatches {
            let [x, y, z] = d.grid.0;
            let bytes = d.cost.weight_bytes + d.cost.other_bytes;
            write!(f, "{:3}  {}  {x}x{y}x{z}  {bytes} B ", d.layer, d.kernel.spec)?;
            for binding in d.kernel.bindings.iter().filter(|b| b.kind != BindingKind::Uniform) {
                write!(f, " {}{}", binding.name, if binding.kind == BindingKind::Write { "=" } else { "" })?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Grid;

    #[test]
    fn slices_cover_a_grid_once() {
        assert_eq!(Grid([10, 1, 3]).slices(1), [(0, Grid([10, 1, 3]))]);
        let slices = Grid([10, 1, 3]).slices(4);
        assert_eq!(slices, [(0, Grid([3, 1, 3])), (3, Grid([3, 1, 3])), (6, Grid([3, 1, 3])), (9, Grid([1, 1, 3]))]);
        let folded = Grid::linear(262_144, 1).slices(2);
        assert!(folded.iter().all(|(_, g)| g.fits()));
        let covered: u64 = folded.iter().map(|(_, g)| u64::from(g.0[0])).sum();
        assert!(covered >= 262_144 && folded.windows(2).all(|w| w[0].0 + w[0].1.0[0] == w[1].0));
    }

    #[test]
    fn grids_fold_above_the_limit_of_a_dimension() {
        assert_eq!(Grid::linear(1, 1).0, [1, 1, 1]);
        assert_eq!(Grid::linear(65_535, 3).0, [65_535, 1, 3]);
        let Grid([x, y, _]) = Grid::linear(262_144, 1);
        assert!(x <= 65_535 && u64::from(x) * u64::from(y) >= 262_144 && y == 5);
        assert!(Grid::linear(65_535 * 65_535, 65_535).fits());
        assert!(!Grid::linear(65_535 * 65_535 + 1, 1).fits() && !Grid::linear(1, 65_536).fits());
        assert!(!Grid::linear(u64::MAX, u64::MAX).fits());
    }
}
