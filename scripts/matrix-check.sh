#!/usr/bin/env bash
# Runs the `matrix` tier on a machine without a GPU: the conformance suite's products, the embedded model's answers, and the
# golden models and formats where HALOGEN_GOLDEN says where they lie. lavapipe offers cooperative matrices (8 x 8, f16 with f32
# sums) from Mesa 26.2 on. Debian's unstable has it; its packages, libc included, are unpacked into target/mesa-unstable and
# nothing is installed: the tests run under that libc's own loader.
# scripts/matrix-check.sh [FILTER]    only these cases of the conformance suite
set -euo pipefail
cd "$(dirname "$0")/.."
skip() { echo "matrix check skipped: $1"; exit 0; }
[ "$(uname -sm)" = "Linux x86_64" ] || skip "Mesa's packages here are for Linux on x86_64"
command -v apt-get >/dev/null && command -v dpkg >/dev/null || skip "no apt-get: the packages are Debian's"

cache="$(pwd)/target/mesa-unstable"
if [ ! -e "$cache/complete" ]; then
    rm -rf "$cache"
    mkdir -p "$cache/lists/partial" "$cache/archives/partial" "$cache/root"
    uri="$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -v security | grep '/debian/\?$' | head -n 1)"
    [ -n "$uri" ] || skip "apt knows no Debian mirror"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $uri unstable main" >"$cache/sources.list"
    # As if nothing were installed, so that the libraries come with it.
    : >"$cache/status"
    apt=(-qq -y -o "Dir::Etc::SourceList=$cache/sources.list" -o Dir::Etc::SourceParts=/dev/null -o APT::Sandbox::User=
        -o "Dir::State::Lists=$cache/lists" -o "Dir::State::status=$cache/status" -o "Dir::Cache=$cache" -o Debug::NoLocking=1
        -o Acquire::Retries=2 -o Acquire::http::Timeout=20)
    if ! { apt-get "${apt[@]}" update &&
        apt-get "${apt[@]}" --no-install-recommends --download-only install mesa-vulkan-drivers; } >"$cache/log" 2>&1; then
        skip "Mesa cannot be downloaded from unstable: $(tail -n 1 "$cache/log")"
    fi
    for package in "$cache"/archives/*.deb; do dpkg -x "$package" "$cache/root"; done
    rm -r "$cache/archives"
    # The manifest names the library without its folder.
    sed "s#\"library_path\": \"[^\"]*/\?lib#\"library_path\": \"$cache/root/usr/lib/x86_64-linux-gnu/lib#" \
        "$cache/root/usr/share/vulkan/icd.d/lvp_icd.json" >"$cache/lvp_icd.json"
    touch "$cache/complete"
fi

libraries="$cache/root/usr/lib/x86_64-linux-gnu"
unset VK_DRIVER_FILES
export VK_ICD_FILENAMES="$cache/lvp_icd.json"
export CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="$libraries/ld-linux-x86-64.so.2 --library-path $libraries"
devices="$(cargo run --quiet -- devices 2>&1)" || skip "no device opens: $(tail -n 1 <<<"$devices")"
grep -q 'tiers.*matrix' <<<"$devices" || skip "this lavapipe has no cooperative matrices: $(grep driver <<<"$devices")"
grep driver <<<"$devices"
if [ $# -gt 0 ]; then exec cargo test --quiet --test conformance -- "$1"; fi
for suite in conformance demo golden; do cargo test --quiet --test "$suite" -- /matrix; done

# Layers on two kinds of devices: this lavapipe, and the system's where it has one.
system=(/usr/share/vulkan/icd.d/lvp_icd*.json)
if [ ! -e "${system[0]}" ]; then echo "two kinds of devices skipped: the system has no lavapipe"; exit 0; fi
export VK_ICD_FILENAMES="$VK_ICD_FILENAMES:${system[0]}"
export CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="$libraries/ld-linux-x86-64.so.2 --library-path $libraries:/usr/lib/x86_64-linux-gnu"
cargo test --quiet --test session -- --nocapture two_kinds
