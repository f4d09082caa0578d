#!/usr/bin/env bash
# What the compiler of AMD's Strix Halo (gfx1151) makes of every kernel, on a machine without that GPU: fails where one
# spills or needs scratch memory, and lists what changed since tests/data/shader-stats-gfx1151.json was written.
# scripts/shader-stats.sh [--update]    Other arguments go to `halogen shaders --stats gfx1151`: matvec --variant q4_k --isa
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/mesa.sh
if ! reason="$(ensure_mesa)"; then
    echo "shader statistics skipped: $reason"
    exit 0
fi
ensure_mesa
if [ $# = 0 ] || [ "$*" = --update ]; then set -- --snapshot tests/data/shader-stats-gfx1151.json "$@"; fi
HALOGEN_RADV_ICD="$MESA_ICD_RADEON" cargo run --quiet --features shader-stats -- shaders --stats gfx1151 "$@"
