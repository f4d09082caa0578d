// node tint-check.mjs FOLDER_OF_NODE_MODULES FOLDER_OF_WGSL: browsers' compiler (Tint, in Dawn) on every .wgsl file of a folder.
// It holds barriers and subgroup operations to uniform control flow, which naga does not check. Exits with 1 on errors.
import { createRequire } from "node:module";
import { readdirSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";

const [modules, folder] = process.argv.slice(2);
const { create } = createRequire(resolve(modules, "x.js"))("webgpu");
// The null backend validates and runs nothing, so that no driver is needed. What nothing refers to is
// collected, and Dawn then answers no more.
globalThis.gpu = create(["backend=null"]);
globalThis.adapter = await gpu.requestAdapter();
globalThis.device = await adapter.requestDevice({ requiredFeatures: ["subgroups", "shader-f16"] });
let [files, failed, wgpus] = [0, 0, 0];
for (const name of readdirSync(folder).filter(n => n.endsWith(".wgsl"))) {
    let code = readFileSync(join(folder, name), "utf8");
    // Cooperative matrices are wgpu's own extension: Tint does not know it.
    if (/^enable wgpu_/m.test(code)) {
        wgpus++;
        continue;
    }
    const enable = [];
    if (/subgroup/.test(code)) enable.push("subgroups");
    if (/\bf16\b/.test(code.replace(/\/\/.*/g, ""))) enable.push("f16");
    code = enable.map(e => `enable ${e};\n`).join("") + code;
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
