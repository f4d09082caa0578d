//! Opening a device, or taking the app's.

use super::caps::{matrix_side, missing};
use super::heaps::{Heap, heaps};
use super::import;
use super::kernel::KernelCache;
use super::scopes::Unanswered;
use super::submit::Spares;
use super::waiting::Alarm;
use super::{Caps, Error, Kernel, KernelSpec, Result, Tier, View};
use crate::formats::Format;
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use wgpu::Features;

/// A device that halogen computes on. Cloning shares it.
#[derive(Clone)]
pub struct Gpu {
    inner: Arc<Inner>,
}

struct Inner {
    info: wgpu::AdapterInfo,
    /// Whether the device is the app's.
    shared: bool,
    device: wgpu::Device,
    queue: wgpu::Queue,
    caps: Caps,
    heaps: Vec<Heap>,
    kernels: KernelCache,
    codebooks: Mutex<HashMap<Format, View>>,
    encode_nanos: AtomicU64,
    spares: Spares,
    alarm: Alarm,
    unanswered: Unanswered,
    pipeline_cache: OnceLock<wgpu::PipelineCache>,
}

/// Which adapter [`Gpu::new`] opens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Selector {
    /// The first discrete, else integrated, else software adapter.
    #[default]
    Best,
    /// By its place in [`adapters`].
    Index(usize),
    /// The first whose name contains this, whatever the case.
    Name(String),
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Selector::Best => f.write_str("the best"),
            Selector::Index(i) => write!(f, "{i}"),
            Selector::Name(name) => f.write_str(name),
        }
    }
}

impl From<&str> for Selector {
    fn from(s: &str) -> Self {
        s.parse().map_or_else(|_| Selector::Name(s.into()), Selector::Index)
    }
}

/// An adapter and what halogen makes of it.
pub struct AdapterReport {
    pub info: wgpu::AdapterInfo,
    pub limits: wgpu::Limits,
    pub caps: Caps,
    /// Empty where the backend does not say.
    pub heaps: Vec<Heap>,
    /// The tiers that cannot be had, each with the features it lacks.
    pub missing: Vec<(Tier, Vec<&'static str>)>,
    /// Why halogen cannot use the adapter at all.
    pub unusable: Option<String>,
    adapter: wgpu::Adapter,
}

/// Features that halogen uses where they are; none is required.
const WANTED: Features = Features::SUBGROUP
    .union(Features::SHADER_F16)
    .union(Features::TIMESTAMP_QUERY)
    .union(Features::TIMESTAMP_QUERY_INSIDE_PASSES)
    .union(Features::PIPELINE_CACHE);

/// Also wanted, where who opens the device has agreed to wgpu's experiments.
const MATRIX: Features = Features::EXPERIMENTAL_COOPERATIVE_MATRIX;

/// Every adapter of this machine, the best first.
pub async fn adapters() -> Vec<AdapterReport> {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.flags = wgpu::InstanceFlags::empty().with_env();
    let backends = wgpu::Backends::PRIMARY.with_env();
    let instance = wgpu::Instance::new(descriptor);
    let mut reports: Vec<_> = instance.enumerate_adapters(backends).await.into_iter().map(AdapterReport::new).collect();
    reports.sort_by_key(|r| (r.unusable.is_some(), rank(r.info.device_type)));
    reports
}

fn rank(kind: wgpu::DeviceType) -> u32 {
    match kind {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu | wgpu::DeviceType::Other => 2,
        wgpu::DeviceType::Cpu => 3,
    }
}

impl AdapterReport {
    fn new(adapter: wgpu::Adapter) -> Self {
        let (info, limits) = (adapter.get_info(), adapter.limits());
        let matrices = adapter.cooperative_matrix_properties();
        let mut features = adapter.features() & (WANTED | MATRIX);
        features.set(MATRIX, features.contains(MATRIX) && matrix_side(&matrices).is_some());
        let missing_by_tier =
            Tier::ALL.map(|t| (t, missing(t, features))).into_iter().filter(|(_, m)| !m.is_empty()).collect();
        AdapterReport {
            caps: Caps::new(features, &limits, &info, &matrices),
            heaps: heaps(&adapter),
            unusable: unusable(&info, &limits).map(|e| e.to_string()),
            missing: missing_by_tier,
            info,
            limits,
            adapter,
        }
    }
}

/// What WebGPU guarantees and kernels rely on.
fn unusable(info: &wgpu::AdapterInfo, limits: &wgpu::Limits) -> Option<Error> {
    let needs = [
        ("storage buffers a stage", 8, limits.max_storage_buffers_per_shader_stage),
        ("invocations a workgroup", 256, limits.max_compute_invocations_per_workgroup),
        ("bytes of workgroup memory", 16384, limits.max_compute_workgroup_storage_size),
        ("workgroups a dimension", 65535, limits.max_compute_workgroups_per_dimension),
    ];
    let (what, need, has) = needs.into_iter().find(|(_, need, has)| has < need)?;
    Some(Error::AdapterLacks { adapter: info.name.clone(), what: format!("{need} {what}"), has: has.to_string() })
}

impl Gpu {
    /// Opens a device of its own, with all that halogen can use.
    ///
    /// # Errors
    /// No adapter, none that matches, one that lacks what halogen needs, or a driver that refuses.
    pub async fn new(selector: Selector) -> Result<Gpu> {
        Gpu::open(selector, false).await
    }

    /// As [`Gpu::new`], a device that can read weights in a file's own pages: `Upload::Import`.
    ///
    /// # Errors
    /// As [`Gpu::new`]; an adapter that cannot import.
    pub async fn importing(selector: Selector) -> Result<Gpu> {
        Gpu::open(selector, true).await
    }

    async fn open(selector: Selector, import: bool) -> Result<Gpu> {
        let mut reports = adapters().await;
        let names =
            reports.iter().enumerate().map(|(i, r)| format!("{i} {}", r.info.name)).collect::<Vec<_>>().join(", ");
        if reports.is_empty() {
            return Err(Error::NoAdapter);
        }
        let index = match &selector {
            Selector::Best => Some(0),
            Selector::Index(i) => Some(*i).filter(|i| *i < reports.len()),
            Selector::Name(name) => {
                let name = name.to_lowercase();
                reports.iter().position(|r| r.info.name.to_lowercase().contains(&name))
            }
        };
        let index = index.ok_or_else(|| Error::NoSuchAdapter { wanted: selector.to_string(), found: names })?;
        let adapter = reports.swap_remove(index).adapter;
        let mut descriptor = wgpu::DeviceDescriptor { label: Some("halogen"), ..Default::default() };
        // SAFETY: of wgpu's experiments only cooperative matrices are used, by kernels whose indices the host has checked.
        descriptor.experimental_features = unsafe { wgpu::ExperimentalFeatures::enabled() };
        Gpu::extend(&adapter, &mut descriptor);
        let (device, queue) = match import {
            true => import::open(&adapter, &mut descriptor).await?,
            false => {
                let opened = adapter.request_device(&descriptor).await;
                opened.map_err(|source| Error::Open { adapter: adapter.get_info().name, source })?
            }
        };
        Gpu::on(&adapter, device, queue, false)
    }

    /// Adds to a device's description the features and limits that halogen can use and `adapter` has. It never lowers
    /// what is asked for already. Cooperative matrices are among them if `descriptor.experimental_features` is enabled.
    pub fn extend(adapter: &wgpu::Adapter, descriptor: &mut wgpu::DeviceDescriptor) {
        let experiments = if descriptor.experimental_features.is_enabled() { MATRIX } else { Features::empty() };
        descriptor.required_features |= adapter.features() & (WANTED | experiments);
        let (has, want) = (adapter.limits(), &mut descriptor.required_limits);
        macro_rules! raise {
            ($($field:ident),*) => { $(want.$field = want.$field.max(has.$field);)* };
        }
        raise!(
            max_buffer_size,
            max_storage_buffer_binding_size,
            max_storage_buffers_per_shader_stage,
            max_compute_invocations_per_workgroup,
            max_compute_workgroup_size_x,
            max_compute_workgroup_storage_size,
            max_compute_workgroups_per_dimension
        );
    }

    /// Computes on the app's own device. The adapter is that from which the device came.
    ///
    /// # Errors
    /// A device whose limits are below what kernels rely on ([`Gpu::extend`] raises them).
    pub fn from_wgpu(adapter: &wgpu::Adapter, device: wgpu::Device, queue: wgpu::Queue) -> Result<Gpu> {
        Gpu::on(adapter, device, queue, true)
    }

    fn on(adapter: &wgpu::Adapter, device: wgpu::Device, queue: wgpu::Queue, shared: bool) -> Result<Gpu> {
        let info = adapter.get_info();
        let limits = device.limits();
        if let Some(error) = unusable(&info, &limits) {
            return Err(error);
        }
        let caps = Caps::new(device.features(), &limits, &info, &adapter.cooperative_matrix_properties());
        Ok(Gpu {
            inner: Arc::new(Inner {
                info,
                shared,
                device,
                queue,
                caps,
                heaps: heaps(adapter),
                kernels: KernelCache::default(),
                codebooks: Mutex::default(),
                encode_nanos: AtomicU64::new(0),
                spares: Spares::default(),
                alarm: Alarm::default(),
                unanswered: Unanswered::default(),
                pipeline_cache: OnceLock::new(),
            }),
        })
    }

    /// The same device with weights cut into shards of at most `bytes`, and kernels that bind at most so many storage buffers,
    /// for tests: real limits take gigabytes to reach. `None` if the device is shared already.
    #[doc(hidden)]
    pub fn with_limits(mut self, bytes: u64, storage_buffers: u32) -> Option<Gpu> {
        let caps = &mut Arc::get_mut(&mut self.inner)?.caps;
        caps.max_shard = caps.max_shard.min(bytes);
        caps.storage_buffers = caps.storage_buffers.min(storage_buffers);
        Some(self)
    }

    /// The same of a layer's keys or values alone.
    #[doc(hidden)]
    pub fn with_cache_limits(mut self, bytes: u64, storage_buffers: u32) -> Option<Gpu> {
        let caps = &mut Arc::get_mut(&mut self.inner)?.caps;
        caps.max_cache_shard = caps.max_cache_shard.min(bytes);
        caps.storage_buffers = caps.storage_buffers.min(storage_buffers);
        Some(self)
    }

    pub fn info(&self) -> &wgpu::AdapterInfo {
        &self.inner.info
    }

    /// Whether the device is the app's, which submits work of its own.
    pub fn is_shared(&self) -> bool {
        self.inner.shared
    }

    pub fn caps(&self) -> &Caps {
        &self.inner.caps
    }

    /// The memory that the driver says there is; empty where the backend does not say.
    pub fn heaps(&self) -> &[Heap] {
        &self.inner.heaps
    }

    pub fn device(&self) -> &wgpu::Device {
        &self.inner.device
    }

    pub fn queue(&self) -> &wgpu::Queue {
        &self.inner.queue
    }

    /// Fails unless kernels of `tier` can run here.
    pub fn require(&self, tier: Tier) -> Result<()> {
        if tier <= self.caps().tier {
            return Ok(());
        }
        let lacks = missing(tier, self.device().features()).join(", ");
        Err(Error::NoTier { adapter: self.info().name.clone(), tier, missing: format!("it lacks {lacks}") })
    }

    /// The kernel of a spec, compiled on first use and kept.
    pub fn kernel(&self, spec: &KernelSpec) -> Result<Arc<Kernel>> {
        self.inner.kernels.get(self, spec)
    }

    /// Lets the driver keep what it compiles from here on, where it can (`PIPELINE_CACHE`): `kept` are the bytes of an
    /// earlier [`Gpu::pipeline_cache_data`], for which wgpu names a file by `wgpu::util::pipeline_cache_key`.
    ///
    /// # Safety
    /// `kept` must have come from [`Gpu::pipeline_cache_data`] unchanged: a driver trusts it.
    pub unsafe fn keep_pipelines(&self, kept: Option<&[u8]>) -> Result<()> {
        if !self.device().features().contains(Features::PIPELINE_CACHE) {
            return Ok(());
        }
        let descriptor = wgpu::PipelineCacheDescriptor { label: Some("halogen"), data: kept, fallback: true };
        // SAFETY: the caller's promise.
        let cache = self.scoped("pipeline cache", |device| unsafe { device.create_pipeline_cache(&descriptor) })?;
        // The first of several stays.
        let _ = self.inner.pipeline_cache.set(cache);
        Ok(())
    }

    /// What the driver has compiled since [`Gpu::keep_pipelines`], to be kept on disk.
    pub fn pipeline_cache_data(&self) -> Option<Vec<u8>> {
        self.pipeline_cache()?.get_data()
    }

    pub(super) fn pipeline_cache(&self) -> Option<&wgpu::PipelineCache> {
        self.inner.pipeline_cache.get()
    }

    /// The table from which a format's shader looks weights up, uploaded on first use.
    pub(super) fn codebook(&self, spec: &KernelSpec) -> Result<View> {
        let missing = || Error::Unbound { kernel: spec.to_string(), name: "codebook".into() };
        let format = spec.format.ok_or_else(missing)?;
        let words = format.codebook().ok_or_else(missing)?;
        let mut codebooks = self.inner.codebooks.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(view) = codebooks.get(&format) {
            return Ok(view.clone());
        }
        let view = self.upload(&format!("codebook of {format}"), words)?;
        codebooks.insert(format, view.clone());
        Ok(view)
    }

    /// Host time spent encoding submits so far, up to the driver's own submit: a software device computes inside that.
    pub fn encode_time(&self) -> Duration {
        Duration::from_nanos(self.inner.encode_nanos.load(Ordering::Relaxed))
    }

    pub(super) fn spares(&self) -> &Spares {
        &self.inner.spares
    }

    pub(super) fn unanswered(&self) -> &Unanswered {
        &self.inner.unanswered
    }

    pub(super) fn alarm(&self) -> &Alarm {
        &self.inner.alarm
    }

    pub(super) fn add_encode_time(&self, time: Duration) {
        self.inner.encode_nanos.fetch_add(time.as_nanos() as u64, Ordering::Relaxed);
    }

    /// How many kernels have been compiled so far.
    pub fn kernels_compiled(&self) -> usize {
        self.inner.kernels.len()
    }
}
