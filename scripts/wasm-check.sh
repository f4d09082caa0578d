#!/usr/bin/env bash
# Type-checks the library for browsers, without the feature `native-io`. What type checks but fails there (waiting, files,
# threads, clocks) clippy.toml lists.
set -euo pipefail
cd "$(dirname "$0")/.."
skip() { echo "wasm check skipped: $1"; exit 0; }
target=wasm32-unknown-unknown
command -v rustup >/dev/null || skip "no rustup, which would add $target"
timeout 300 rustup --quiet target add "$target" || skip "rustup cannot add $target"
cargo check --lib --no-default-features --target "$target" --target-dir target/wasm
echo "wasm check: $target"
