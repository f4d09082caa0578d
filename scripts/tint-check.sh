#!/usr/bin/env bash
# Every kernel through Tint, the WGSL compiler of Chromium: it refuses barriers and subgroup operations in control flow that
# is not uniform by WGSL's rules, which naga does not check. Needs node and npm; fetches Dawn's npm package into target/dawn.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/dawn.sh
skip() { echo "Tint check skipped: $1"; exit 0; }
if ! reason="$(ensure_dawn)"; then skip "$reason"; fi
ensure_dawn
wgsl=target/dawn/wgsl
rm -rf "$wgsl"
for class in gpu cpu; do
    cargo run --quiet -- shaders --class "$class" --emit wgsl --out "$wgsl"
done
# Dawn under node has been seen to stop answering: that says nothing about a shader.
status=0
timeout 240 node scripts/dawn.mjs check "$DAWN_MODULES" "$wgsl" || status=$?
if [ "$status" = 124 ]; then skip "Dawn did not answer within 240 s"; fi
exit "$status"
