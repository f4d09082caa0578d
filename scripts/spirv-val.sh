#!/usr/bin/env bash
# Every kernel's SPIR-V through Khronos's validator, where spirv-val is installed (Debian's package spirv-tools).
set -euo pipefail
cd "$(dirname "$0")/.."
if ! command -v spirv-val >/dev/null; then echo "SPIR-V validation skipped: no spirv-val (Debian has it in spirv-tools)"; exit 0; fi
folder=target/spirv
rm -rf "$folder"
for class in gpu cpu; do
    cargo run --quiet -- shaders --class "$class" --emit spirv --out "$folder"
done
# Cooperative matrices are younger than the validator of bookworm, which does not know their capability.
kernels() { find "$folder" -type f ! -name '*_matrix-*' "$@"; }
kernels -print0 | xargs -0 -n 1 -P "$(nproc)" spirv-val --target-env vulkan1.3
echo "spirv-val: $(kernels | wc -l) variants, 0 refused"
