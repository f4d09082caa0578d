//! A recording: an ordered list of dispatches, as data. Made once, printed, counted, cut and replayed.

use super::{BindingKind, Cost, Error, Gpu, Kernel, KernelSpec, Mark, Result, View};
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

impl Grid {
    /// Workgroups along x and y, which shaders number in one.
    fn groups(self) -> u32 {
        self.0[0].saturating_mul(self.0[1])
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
    params: Placed,
    slicing: Option<Slicing>,
    bind_group: wgpu::BindGroup,
}

/// The parameters of a dispatch, and where they lie in the arena.
#[derive(Clone)]
struct Placed {
    offset: u32,
    bytes: Vec<u8>,
}

/// How a dispatch can be submitted in parts: its kernel adds a parameter to the number of a workgroup.
#[derive(Clone, Copy)]
struct Slicing {
    /// The byte of the parameter: `first_group` counts along x and y, `first_z` along z.
    at: usize,
    along_z: bool,
    groups: u32,
}

impl Slicing {
    fn of<P: Params>(grid: Grid) -> Option<Slicing> {
        let field = |wanted: &str| P::FIELDS.iter().find(|(name, _)| *name == wanted).map(|(_, at)| *at);
        let flat = field("first_group").map(|at| Slicing { at, along_z: false, groups: grid.groups() });
        let deep = field("first_z").map(|at| Slicing { at, along_z: true, groups: grid.0[2] });
        flat.into_iter().chain(deep).max_by_key(|slicing| slicing.groups).filter(|slicing| slicing.groups > 1)
    }
}

/// Builds a [`Recording`].
pub struct Recorder<'g> {
    gpu: &'g Gpu,
    state: View,
    layer: u32,
    /// Dispatches of others are left out.
    layers: Range<u32>,
    pending: Vec<Pending>,
    arena: Vec<u8>,
    survey: Option<BTreeSet<KernelSpec>>,
}

struct Pending {
    kernel: Arc<Kernel>,
    bindings: Vec<(String, View)>,
    grid: Grid,
    cost: Cost,
    layer: u32,
    params: Placed,
    slicing: Option<Slicing>,
}

impl<'g> Recorder<'g> {
    /// `state` is bound wherever a shader names it.
    pub fn new(gpu: &'g Gpu, state: View) -> Self {
        Recorder { gpu, state, layer: 0, layers: 0..u32::MAX, pending: Vec::new(), arena: Vec::new(), survey: None }
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

    /// Of the dispatches that follow, only those of these layers are recorded: the others run on other devices.
    pub fn only(&mut self, layers: Range<u32>) {
        self.layers = layers;
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
        if !self.layers.contains(&self.layer) {
            return Ok(());
        }
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
        let params = self.place(bytemuck::bytes_of(&params));
        let (layer, slicing) = (self.layer, Slicing::of::<P>(grid));
        self.pending.push(Pending { kernel, bindings, grid, cost, layer, params, slicing });
        Ok(())
    }

    fn place(&mut self, bytes: &[u8]) -> Placed {
        let alignment = self.gpu.caps().uniform_alignment as usize;
        self.arena.resize(self.arena.len().next_multiple_of(alignment), 0);
        let offset = self.arena.len() as u32;
        self.arena.extend_from_slice(bytes);
        Placed { offset, bytes: bytes.to_vec() }
    }

    /// Writes the parameter arena and makes the bind groups.
    pub fn finish(mut self) -> Result<Recording> {
        let largest = self.pending.iter().map(|pending| pending.params.bytes.len()).max().unwrap_or(0);
        let spare = [(); 2].map(|()| self.place(&vec![0; largest]).offset);
        let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
        let arena = self.gpu.buffer_with("parameters", self.arena.len() as u64, usage)?;
        self.gpu.write(&arena, 0, &self.arena)?;
        let mut dispatches = Vec::with_capacity(self.pending.len());
        for pending in self.pending {
            let Pending { kernel, bindings, grid, cost, layer, params, slicing } = pending;
            let bind_group = bind_group(self.gpu, &kernel, &bindings, &arena)?;
            dispatches.push(Dispatch { kernel, bindings, grid, cost, layer, params, slicing, bind_group });
        }
        Ok(Recording { dispatches, arena, spare })
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
    /// The parameters of all dispatches.
    arena: View,
    /// Where those of a part of a dispatch go: a submit holds the end of one and the start of another.
    spare: [u32; 2],
}

impl Recording {
    /// What all dispatches must move and compute.
    pub fn cost(&self) -> Cost {
        self.dispatches.iter().fold(Cost::default(), |sum, d| sum + d.cost)
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

    /// As [`Recording::encode`], from a point within a dispatch to a point within another. Parameters of parts are written
    /// before whatever is submitted next, so `pass` must be in the next submit.
    pub(super) fn encode_part(&self, queue: &wgpu::Queue, range: Range<Mark>, pass: &mut wgpu::ComputePass) {
        let Range { start, end } = range;
        if start.dispatch == end.dispatch {
            return self.encode_slice(queue, start.dispatch, start.group..end.group, self.spare[0], pass);
        }
        let mut whole = start.dispatch..end.dispatch;
        if start.group > 0 {
            let groups = start.group..self.dispatches[start.dispatch].groups();
            self.encode_slice(queue, start.dispatch, groups, self.spare[0], pass);
            whole.start += 1;
        }
        self.encode(whole, pass);
        if end.group > 0 {
            self.encode_slice(queue, end.dispatch, 0..end.group, self.spare[1], pass);
        }
    }

    fn encode_slice(
        &self,
        queue: &wgpu::Queue,
        index: usize,
        groups: Range<u32>,
        spare: u32,
        pass: &mut wgpu::ComputePass,
    ) {
        if groups.is_empty() {
            return;
        }
        let dispatch = &self.dispatches[index];
        let slicing = dispatch.slicing.expect("a dispatch that was cut is divisible");
        let mut params = dispatch.params.bytes.clone();
        params[slicing.at..slicing.at + 4].copy_from_slice(&groups.start.to_ne_bytes());
        queue.write_buffer(&self.arena.buffer, u64::from(spare), &params);
        let (Grid([x, y, z]), count) = (dispatch.grid, groups.end - groups.start);
        let grid = if slicing.along_z { [x, y, count] } else { [count, 1, z] };
        dispatch.encode_as(pass, false, spare, Grid(grid));
    }
}

impl Dispatch {
    /// How many parts it can be submitted in; 1: it cannot.
    pub fn groups(&self) -> u32 {
        self.slicing.map_or(1, |slicing| slicing.groups)
    }

    /// The kernel's uniform parameters, as its shader lays them out.
    pub fn params(&self) -> &[u8] {
        &self.params.bytes
    }

    pub(super) fn encode(&self, pass: &mut wgpu::ComputePass, same_pipeline: bool) {
        self.encode_as(pass, same_pipeline, self.params.offset, self.grid);
    }

    fn encode_as(&self, pass: &mut wgpu::ComputePass, same_pipeline: bool, params_offset: u32, grid: Grid) {
        if !same_pipeline {
            pass.set_pipeline(&self.kernel.pipeline);
        }
        let has_params = self.kernel.params_size > 0;
        pass.set_bind_group(0, &self.bind_group, if has_params { std::slice::from_ref(&params_offset) } else { &[] });
        let [x, y, z] = grid.0;
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
