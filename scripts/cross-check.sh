#!/usr/bin/env bash
# Type-checks the library and the command line for Windows and macOS, on any machine: only their standard libraries are
# needed, which rustup adds to the toolchain. Nothing is linked.
set -euo pipefail
cd "$(dirname "$0")/.."
skip() { echo "cross check skipped: $1"; exit 0; }
targets=(x86_64-pc-windows-msvc aarch64-apple-darwin)
command -v rustup >/dev/null || skip "no rustup, which would add ${targets[*]}"
timeout 300 rustup --quiet target add "${targets[@]}" || skip "rustup cannot add ${targets[*]}"
cargo check --target-dir target/cross "${targets[@]/#/--target=}"
echo "cross check: ${targets[*]}"
