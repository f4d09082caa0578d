#!/usr/bin/env bash
# Every kernel through Tint, the WGSL compiler of Chromium: it refuses barriers and subgroup operations in control flow that
# is not uniform by WGSL's rules, which naga does not check. Needs node and npm; fetches Dawn's npm package into target/dawn.
set -euo pipefail
cd "$(dirname "$0")/.."
skip() { echo "Tint check skipped: $1"; exit 0; }
command -v node >/dev/null && command -v npm >/dev/null || skip "no node and npm"
version=0.6.2
cache=target/dawn
if [ ! -e "$cache/complete-$version" ]; then
    mkdir -p "$cache"
    npm install --prefix "$cache" --silent --no-audit --no-fund "webgpu@$version" >"$cache/log" 2>&1 || skip "npm cannot install webgpu@$version"
    touch "$cache/complete-$version"
fi
node -e "require('./$cache/node_modules/webgpu')" 2>"$cache/log" || node --input-type=module -e "await import('./$cache/node_modules/webgpu/index.js')" 2>"$cache/log" \
    || skip "Dawn does not load: $(grep -m1 Error "$cache/log")"
rm -rf "$cache/wgsl"
for class in gpu cpu; do
    cargo run --quiet -- shaders --class "$class" --emit wgsl --out "$cache/wgsl"
done
# Dawn under node has been seen to stop answering: that says nothing about a shader.
status=0
timeout 240 node scripts/tint-check.mjs "$cache/node_modules" "$cache/wgsl" || status=$?
if [ "$status" = 124 ]; then skip "Dawn did not answer within 240 s"; fi
exit "$status"
