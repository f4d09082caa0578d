#!/usr/bin/env bash
# Every kernel that HLSL can express through DXC, Microsoft's shader compiler, as wgpu's DX12 backend calls it. There is no
# DXC for Linux in Debian, npm or PyPI: the one for Windows comes with Dawn's npm package and runs under Wine.
# Needs node, npm, and Debian's wine64 and gcc-mingw-w64-x86-64.
# scripts/dxc-check.sh [N]    only N variants, drawn by a fixed chance
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/dawn.sh
skip() { echo "DXC check skipped: $1"; exit 0; }
if ! reason="$(ensure_dawn)"; then skip "$reason"; fi
ensure_dawn
wine="$(command -v wine64 || ls /usr/lib/wine/wine64 2>/dev/null)" || skip "no wine64 (Debian: apt-get install wine64)"
mingw="$(command -v x86_64-w64-mingw32-gcc)" || skip "no compiler for Windows (Debian: apt-get install gcc-mingw-w64-x86-64)"
cache="$(pwd)/target/dxc"
rm -rf "$cache/hlsl"
mkdir -p "$cache"
"$mingw" -O1 -Wall -o "$cache/dxc.exe" scripts/dxc.c
cargo run --quiet -- shaders --class gpu --emit hlsl --out "$cache/hlsl"
export WINEPREFIX="$cache/wine" WINEDEBUG=-all
"$wine" wineboot >"$cache/log" 2>&1 || skip "Wine does not start: $(tail -n 1 "$cache/log")"
# From their folder: thousands of whole paths do not fit a command line of Windows.
cd "$cache/hlsl"
ls >"$cache/all"
chosen=(cat "$cache/all")
if [ $# -gt 0 ]; then chosen=(shuf -n "$1" --random-source=/dev/zero "$cache/all"); fi
"${chosen[@]}" >"$cache/names"
status=0
xargs -n 100 -P "$(nproc)" "$wine" "$cache/dxc.exe" "$DAWN_MODULES/webgpu/dist/win32-x64/dxcompiler.dll" <"$cache/names" >"$cache/refused" || status=$?
head -n 40 "$cache/refused"
if [ "$status" = 0 ]; then echo "DXC: $(wc -l <"$cache/names") variants, none refused"; else exit 1; fi
