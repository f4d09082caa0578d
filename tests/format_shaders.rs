//! Every format's shader against its scalar decoder, on the first Vulkan device; and through naga's other back ends.

use halogen::formats::{Format, RUN};
use safetensors::SafeTensors;
use wgpu::BufferUsages as Usage;

/// How a shader makes weights of a run.
#[derive(Clone, Copy, PartialEq)]
enum By {
    /// decode16
    Floats,
    /// quants16, each integer times the scale plus the offset
    Integers,
}

const INTEGERS: &str = "
fn weights4(w: Quants, i: u32) -> vec4<f32> {
    return fma(vec4<f32>(unpack4xI8(w.q[i])), vec4<f32>(w.scale), vec4<f32>(w.offset));
}

fn decode(row: u32, tail: u32, run: u32) -> mat4x4<f32> {
    let w = quants16(row, tail, run);
    return mat4x4<f32>(weights4(w, 0u), weights4(w, 1u), weights4(w, 2u), weights4(w, 3u));
}
";
const FLOATS: &str = "
fn decode(row: u32, tail: u32, run: u32) -> mat4x4<f32> {
    return decode16(row, tail, run);
}
";

/// The ways that a format has.
fn ways(format: Format) -> &'static [By] {
    if format.has_integers() { &[By::Floats, By::Integers] } else { &[By::Floats] }
}

/// Decodes every run of every row.
fn kernel(format: Format, columns: usize, by: By) -> String {
    format!(
        "
@group(0) @binding(0) var<storage, read> weights: array<vec4<u32>>; // [rows, row words / 4]
@group(0) @binding(1) var<storage, read_write> decoded: array<mat4x4<f32>>; // [rows, runs]

fn weight_word(i: u32) -> u32 {{
    return weights[i >> 2u][i & 3u];
}}

fn weight_quad(i: u32) -> vec4<u32> {{
    return weights[i];
}}

{snippet}
{decode}
@compute @workgroup_size(8)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {{
    const RUNS: u32 = {runs}u;
    let row = id.x / RUNS * {row_words}u;
    let tail = row + ({columns}u + BLOCK - 1u) / BLOCK * BODY_WORDS;
    if id.x < arrayLength(&decoded) {{
        decoded[id.x] = decode(row, tail, id.x % RUNS);
    }}
}}
",
        snippet = format.wgsl(),
        decode = if by == By::Integers { INTEGERS } else { FLOATS },
        runs = columns.div_ceil(RUN),
        row_words = format.device_row_bytes(columns) / 4,
    )
}

struct Gpu {
    device: wgpu::Device,
    queue: wgpu::Queue,
}

impl Gpu {
    /// The first Vulkan device; `None`, with the reason printed, where there is none.
    fn first() -> Option<Gpu> {
        let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
        descriptor.flags = wgpu::InstanceFlags::empty().with_env();
        let instance = wgpu::Instance::new(descriptor);
        let adapters = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::VULKAN));
        let Some(adapter) = adapters.into_iter().next() else {
            eprintln!("skipped: no Vulkan adapter");
            return None;
        };
        let (device, queue) = pollster::block_on(adapter.request_device(&Default::default())).unwrap();
        Some(Gpu { device, queue })
    }

    fn buffer(&self, size: usize, usage: Usage) -> wgpu::Buffer {
        let descriptor = wgpu::BufferDescriptor { label: None, size: size as u64, usage, mapped_at_creation: false };
        self.device.create_buffer(&descriptor)
    }

    fn upload(&self, bytes: &[u8]) -> wgpu::Buffer {
        let buffer = self.buffer(bytes.len(), Usage::STORAGE | Usage::COPY_DST);
        self.queue.write_buffer(&buffer, 0, bytes);
        buffer
    }

    /// The values of rows as in a file, each padded to whole runs.
    fn decode(&self, format: Format, columns: usize, rows: &[u8], by: By) -> Vec<f32> {
        let count = rows.len() / format.row_bytes(columns);
        let mut relaid = vec![0xff; count * format.device_row_bytes(columns)];
        format.relay(columns, rows, &mut relaid);
        let runs = count * columns.div_ceil(RUN);

        let weights = self.upload(&relaid);
        let codebook = format.codebook().map(|words| self.upload(bytemuck::cast_slice(words)));
        let decoded = self.buffer(runs * RUN * 4, Usage::STORAGE | Usage::COPY_SRC);
        let read = self.buffer(runs * RUN * 4, Usage::MAP_READ | Usage::COPY_DST);

        let module = self.device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some(format.name()),
            source: wgpu::ShaderSource::Wgsl(kernel(format, columns, by).into()),
        });
        let pipeline = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(format.name()),
            layout: None,
            module: &module,
            entry_point: None,
            compilation_options: Default::default(),
            cache: None,
        });
        let bound = [(0, Some(&weights)), (1, Some(&decoded)), (9, codebook.as_ref())];
        let entries = bound.into_iter().filter_map(|(binding, buffer)| {
            buffer.map(|b| wgpu::BindGroupEntry { binding, resource: b.as_entire_binding() })
        });
        let group = self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &pipeline.get_bind_group_layout(0),
            entries: &entries.collect::<Vec<_>>(),
        });

        let mut encoder = self.device.create_command_encoder(&Default::default());
        let mut pass = encoder.begin_compute_pass(&Default::default());
        pass.set_pipeline(&pipeline);
        pass.set_bind_group(0, &group, &[]);
        pass.dispatch_workgroups(runs.div_ceil(8) as u32, 1, 1);
        drop(pass);
        encoder.copy_buffer_to_buffer(&decoded, 0, &read, 0, None);
        self.queue.submit([encoder.finish()]);
        read.map_async(wgpu::MapMode::Read, .., |mapped| mapped.unwrap());
        self.device.poll(wgpu::PollType::wait_indefinitely()).unwrap();
        bytemuck::cast_slice(&read.get_mapped_range(..).unwrap()).to_vec()
    }

    /// Holds the shader's values of `rows` against the scalar decoder's: equal, save the sign of a zero, values that no
    /// f32 holds, and subnormal ones, which a GPU may flush.
    fn check(&self, format: Format, columns: usize, rows: &[u8]) {
        ways(format).iter().for_each(|by| self.check_by(format, columns, rows, *by));
    }

    fn check_by(&self, format: Format, columns: usize, rows: &[u8], by: By) {
        // A scale may be subnormal where the weights that it makes are not yet.
        let least = if by == By::Integers { 128.0 * f32::MIN_POSITIVE } else { f32::MIN_POSITIVE };
        let decoded = self.decode(format, columns, rows, by);
        let mut expected = vec![0.0; columns];
        let padded = columns.next_multiple_of(RUN);
        for (r, row) in rows.chunks_exact(format.row_bytes(columns)).enumerate() {
            format.decode(row, &mut expected);
            let (values, padding) = decoded[r * padded..][..padded].split_at(columns);
            for (i, (y, e)) in values.iter().zip(&expected).enumerate() {
                let same = y == e || (y - e).abs() < least || !e.is_finite();
                assert!(same, "{format}: row {r} of {columns} columns, value {i}: {y}, expected {e}");
            }
            assert!(padding.iter().all(|&y| y == 0.0), "{format}: padding of {columns} columns: {padding:?}");
        }
    }
}

#[test]
fn shaders_match_the_scalar_decoders() {
    let Some(gpu) = Gpu::first() else { return };
    let blocks = SafeTensors::deserialize(include_bytes!("blocks.safetensors")).unwrap();
    for &format in Format::ALL {
        let bytes = blocks.tensor(&format!("{format}.bytes")).unwrap();
        gpu.check(format, 256, bytes.data());
        // One row of all blocks: planes of several blocks.
        gpu.check(format, 2048, bytes.data());
        // Float rows of no whole number of runs.
        for columns in [4, 12, 36, 100].into_iter().filter(|_| format.block() == 1) {
            gpu.check(format, columns, &bytes.data()[..format.row_bytes(8 * columns)]);
        }
    }
}

/// Real weights use few scales; arbitrary bytes reach every scale, quant, sign and codebook entry.
#[test]
fn shaders_match_the_scalar_decoders_on_arbitrary_bytes() {
    let Some(gpu) = Gpu::first() else { return };
    for &format in Format::ALL {
        // mxfp4's shader takes no exponents above 240, which no file holds; the first byte of a block is the exponent.
        let top = if format == Format::MXFP4 { 127 } else { 255 };
        // xorshift64
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let rows = (0..32 * format.row_bytes(1280)).map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8 & top
        });
        gpu.check(format, 1280, &rows.collect::<Vec<_>>());
    }
}

#[test]
fn every_back_end_of_naga_translates_the_shaders() {
    use naga::back::{hlsl, msl, spv};
    use naga::valid::{Capabilities, ValidationFlags, Validator};

    for (format, by) in Format::ALL.iter().flat_map(|&f| ways(f).iter().map(move |by| (f, *by))) {
        let source = kernel(format, 2048, by);
        let module =
            naga::front::wgsl::parse_str(&source).unwrap_or_else(|e| panic!("{format}: {}", e.emit_to_string(&source)));
        // Core WGSL only, as a browser takes it; naga counts unpack2x16float as a capability, since GLES may lack it.
        let info = Validator::new(ValidationFlags::all(), Capabilities::SHADER_FLOAT16_IN_FLOAT32)
            .validate(&module)
            .unwrap_or_else(|e| panic!("{format}: {}", e.emit_to_string(&source)));

        spv::write_vec(&module, &info, &spv::Options::default(), None)
            .unwrap_or_else(|e| panic!("{format}: SPIR-V: {e}"));
        let options = msl::Options { fake_missing_bindings: true, ..Default::default() };
        msl::write_string(&module, &info, &options, &Default::default())
            .unwrap_or_else(|e| panic!("{format}: MSL: {e}"));
        let options = hlsl::Options { fake_missing_bindings: true, ..Default::default() };
        hlsl::Writer::new(&mut String::new(), &options, &Default::default())
            .write(&module, &info, None)
            .unwrap_or_else(|e| panic!("{format}: HLSL: {e}"));
    }
}
