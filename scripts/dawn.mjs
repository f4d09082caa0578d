// Dawn, the WebGPU of Chromium, on halogen's kernels:
//   node dawn.mjs check FOLDER_OF_NODE_MODULES FOLDER_OF_WGSL
//       Tint, its compiler, on every .wgsl file of a folder. It holds barriers and subgroup operations to uniform control
//       flow, which naga does not check. Exits with 1 on errors.
//   node dawn.mjs run FOLDER_OF_NODE_MODULES
//       executes recordings that tests/conformance/dawn.rs sends to standard input, one after another.
import { createRequire } from "node:module";
import { readFileSync, readSync, readdirSync, writeSync } from "node:fs";
import { join, resolve } from "node:path";

const [command, modules, folder] = process.argv.slice(2);
const { create, globals } = createRequire(resolve(modules, "x.js"))("webgpu");
Object.assign(globalThis, globals);

/** A device with all features that kernels use, and the limits that they ask for. */
async function open(backend) {
    // What nothing refers to is collected, and Dawn then answers no more.
    globalThis.gpu = create([`backend=${backend}`]);
    globalThis.adapter = await gpu.requestAdapter();
    if (!adapter) throw new Error(`Dawn finds no adapter of ${backend}`);
    const wanted = ["maxStorageBufferBindingSize", "maxBufferSize", "maxStorageBuffersPerShaderStage"];
    const requiredLimits = Object.fromEntries(wanted.map(name => [name, adapter.limits[name]]));
    return adapter.requestDevice({ requiredFeatures: ["subgroups", "shader-f16"], requiredLimits });
}

/** WGSL as browsers want it: naga needs no `enable` for what wgpu's device has. */
function standard(code) {
    const enable = [];
    if (/subgroup/.test(code)) enable.push("subgroups");
    if (/\bf16\b/.test(code.replace(/\/\/.*/g, ""))) enable.push("f16");
    return enable.map(e => `enable ${e};\n`).join("") + code;
}

async function check() {
    // The null backend validates and runs nothing, so that no driver is needed.
    globalThis.device = await open("null");
    let [files, failed, wgpus] = [0, 0, 0];
    for (const name of readdirSync(folder).filter(n => n.endsWith(".wgsl"))) {
        const text = readFileSync(join(folder, name), "utf8");
        // Cooperative matrices are wgpu's own extension: Tint does not know it.
        if (/^enable wgpu_/m.test(text)) {
            wgpus++;
            continue;
        }
        const code = standard(text);
        device.pushErrorScope("validation");
        const module = device.createShaderModule({ code });
        const info = await module.getCompilationInfo();
        await device.popErrorScope();
        files++;
        const errors = info.messages.filter(m => m.type === "error");
        if (errors.length === 0) continue;
        failed++;
        if (failed <= 10) {
            console.log(`${name}:`);
            for (const m of errors) console.log(`    line ${m.lineNum}: ${m.message}\n        ${code.split("\n")[m.lineNum - 1]?.trim()}`);
        }
    }
    console.log(`Tint: ${files} variants, ${failed} refused, ${wgpus} left out (wgpu's cooperative matrices)`);
    device.destroy();
    process.exitCode = failed > 0 || files === 0 ? 1 : 0;
}

/** The next `bytes` bytes of standard input; null at its end. */
function take(bytes) {
    const data = new Uint8Array(bytes);
    for (let at = 0; at < bytes; ) {
        const read = readSync(0, data, at, bytes - at);
        if (read === 0) return null;
        at += read;
    }
    return data;
}

function put(data) {
    for (let at = 0; at < data.length; ) at += writeSync(1, data, at);
}

/** A message is the length of its JSON (u32, little-endian), the JSON, and what it says that follows. */
function answer(head, buffers = []) {
    const json = new TextEncoder().encode(JSON.stringify(head));
    put(new Uint8Array(new Uint32Array([json.length]).buffer));
    put(json);
    buffers.forEach(put);
}

/** A promise's value. Dawn under node polls without a pause, which keeps a software device from its work: this pauses. */
async function restfully(promise) {
    let pending = true;
    const still = new Int32Array(new SharedArrayBuffer(4));
    const rest = () => {
        if (!pending) return;
        Atomics.wait(still, 0, 0, 1);
        setImmediate(rest);
    };
    rest();
    try {
        return await promise;
    } finally {
        pending = false;
    }
}

const pipelines = new Map();

function pipeline(code, bindings) {
    let known = pipelines.get(code);
    if (!known) {
        const entries = bindings.map(b => ({ binding: b.index, visibility: GPUShaderStage.COMPUTE, buffer: { type: b.type } }));
        const layout = device.createBindGroupLayout({ entries });
        const module = device.createShaderModule({ code: standard(code) });
        const made = device.createComputePipeline({
            layout: device.createPipelineLayout({ bindGroupLayouts: [layout] }),
            compute: { module },
        });
        known = { layout, made };
        pipelines.set(code, known);
    }
    return known;
}

/** Runs a recording: {times, sizes: of the buffers that follow, written: which of them to send back, dispatches}. */
async function execute({ times, sizes, written, dispatches }) {
    device.pushErrorScope("validation");
    const { UNIFORM, STORAGE, COPY_SRC, COPY_DST, MAP_READ } = GPUBufferUsage;
    const upload = data => {
        const buffer = device.createBuffer({ size: data.length, usage: UNIFORM | STORAGE | COPY_SRC | COPY_DST });
        device.queue.writeBuffer(buffer, 0, data);
        return buffer;
    };
    const buffers = sizes.map(size => upload(take(size)));
    const calls = dispatches.map(({ wgsl, grid, params, bindings }) => {
        const { layout, made } = pipeline(wgsl, bindings);
        const entries = bindings.map(({ index, part }) => ({
            binding: index,
            resource: part ? { ...part, buffer: buffers[part.buffer] } : { buffer: upload(new Uint8Array(params)) },
        }));
        return { made, grid, group: device.createBindGroup({ layout, entries }) };
    });
    const encoder = device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    for (let i = 0; i < times; i++) {
        for (const { made, grid, group } of calls) {
            pass.setPipeline(made);
            pass.setBindGroup(0, group);
            pass.dispatchWorkgroups(...grid);
        }
    }
    pass.end();
    const results = written.map(i => {
        const result = device.createBuffer({ size: sizes[i], usage: MAP_READ | COPY_DST });
        encoder.copyBufferToBuffer(buffers[i], 0, result, 0, sizes[i]);
        return result;
    });
    device.queue.submit([encoder.finish()]);
    const error = await device.popErrorScope();
    if (error) return answer({ error: error.message });
    await restfully(Promise.all(results.map(result => result.mapAsync(GPUMapMode.READ))));
    answer({}, results.map(result => new Uint8Array(result.getMappedRange())));
    [...buffers, ...results].forEach(buffer => buffer.destroy());
}

async function run() {
    globalThis.device = await open("vulkan");
    answer({ device: `${adapter.info.description} through Dawn` });
    for (let length; (length = take(4)); ) {
        const json = take(new Uint32Array(length.buffer)[0]);
        await execute(JSON.parse(new TextDecoder().decode(json)));
    }
    device.destroy();
}

await { check, run }[command]();
