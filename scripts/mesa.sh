# Sourced by scripts that need Mesa 25.0.7, from Debian's backports, beside the system's own: ensure_mesa downloads and
# unpacks it, installing nothing, and sets MESA_ICD_RADEON and MESA_ICD_LAVAPIPE. Where it cannot be had it says why and fails.
# Mesa 25.0 is the last with RADV's null device, which compiles for a GPU that is not here.

ensure_mesa() {
    local cache version="25.0.7-2~bpo12+1"
    cache="$(pwd)/target/radv"
    MESA_ICD_RADEON="$cache/radeon_icd.json"
    MESA_ICD_LAVAPIPE="$cache/lvp_icd.json"
    if [ -e "$cache/complete" ]; then return 0; fi
    if [ "$(uname -sm)" != "Linux x86_64" ]; then echo "Mesa's packages here are for Linux on x86_64"; return 1; fi
    if ! command -v apt-get >/dev/null || ! command -v dpkg >/dev/null; then echo "no apt-get: the packages are Debian's"; return 1; fi
    rm -rf "$cache/root" "$cache/deb"
    mkdir -p "$cache/lists/partial" "$cache/deb" "$cache/root"
    local uri
    uri="$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | head -n 1)"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $uri bookworm-backports main" >"$cache/sources.list"
    local apt=(-qq -o "Dir::Etc::SourceList=$cache/sources.list" -o Dir::Etc::SourceParts=/dev/null -o APT::Sandbox::User=
        -o "Dir::State::Lists=$cache/lists" -o "Dir::Cache=$cache" -o Acquire::Retries=2 -o Acquire::http::Timeout=20)
    local packages=("mesa-vulkan-drivers=$version" "mesa-libgallium=$version" libdrm2 libdrm-amdgpu1 libdrm-intel1)
    if ! (apt-get "${apt[@]}" update && cd "$cache/deb" && apt-get "${apt[@]}" download "${packages[@]}") >"$cache/log" 2>&1; then
        echo "Mesa $version cannot be downloaded from bookworm-backports: $(tail -n 1 "$cache/log")"
        return 1
    fi
    local package
    for package in "$cache"/deb/*.deb; do dpkg -x "$package" "$cache/root"; done
    local lib="$cache/root/usr/lib/x86_64-linux-gnu" icd
    for icd in radeon_icd lvp_icd; do
        sed "s#\"library_path\": \"#&$lib/#" "$cache/root/usr/share/vulkan/icd.d/$icd.json" >"$cache/$icd.json"
    done
    # The drivers' libraries that the system must have: a driver without them does not load.
    local missing
    missing="$(LD_LIBRARY_PATH="$lib" ldd "$lib"/libvulkan_radeon.so "$lib"/libvulkan_lvp.so | sed -n 's/^\s*\(\S*\) => not found/\1/p' | sort -u | tr '\n' ' ')"
    if [ -n "$missing" ]; then echo "Mesa $version needs libraries that are not installed: $missing"; return 1; fi
    touch "$cache/complete"
}
