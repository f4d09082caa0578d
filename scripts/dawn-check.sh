#!/usr/bin/env bash
# The conformance suite on Dawn, the WebGPU of Chromium: the same kernels, translated by Tint instead of naga and bound by
# another runtime, held to the same twins. Needs node and npm (Dawn's package goes into target/dawn) and a Vulkan driver
# that Dawn takes: a GPU's, or Mesa's lavapipe 25 from Debian's backports, which is unpacked into target/radv.
# scripts/dawn-check.sh [FILTER]    only these cases; HALOGEN_ADAPTER picks wgpu's device, on whose driver Dawn runs too
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/dawn.sh
. scripts/mesa.sh
skip() { echo "Dawn check skipped: $1"; exit 0; }
if ! reason="$(ensure_dawn)"; then skip "$reason"; fi
ensure_dawn
# A system's own lavapipe may be older than Dawn takes.
if [ -z "${VK_ICD_FILENAMES:-}${VK_DRIVER_FILES:-}" ] && ! cargo run --quiet -- devices 2>/dev/null | grep -q 'kind .* GPU'; then
    if ! reason="$(ensure_mesa)"; then skip "$reason"; fi
    ensure_mesa
    export VK_ICD_FILENAMES="$MESA_ICD_LAVAPIPE"
fi
HALOGEN_DAWN="$DAWN_MODULES" cargo test --quiet --test conformance -- "$@"
