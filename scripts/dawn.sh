# Sourced by scripts that need Dawn, the WebGPU of Chromium: ensure_dawn fetches its npm package into target/dawn and sets
# DAWN_MODULES. Where it cannot be had it says why and fails.

ensure_dawn() {
    local cache version=0.6.2
    cache="$(pwd)/target/dawn"
    DAWN_MODULES="$cache/node_modules"
    if ! command -v node >/dev/null || ! command -v npm >/dev/null; then echo "no node and npm"; return 1; fi
    if [ ! -e "$cache/complete-$version" ]; then
        mkdir -p "$cache"
        if ! npm install --prefix "$cache" --silent --no-audit --no-fund "webgpu@$version" >"$cache/log" 2>&1; then
            echo "npm cannot install webgpu@$version"
            return 1
        fi
        touch "$cache/complete-$version"
    fi
    if ! node -e "require('$DAWN_MODULES/webgpu')" 2>"$cache/log" && ! node --input-type=module -e "await import('$DAWN_MODULES/webgpu/index.js')" 2>"$cache/log"; then
        echo "Dawn does not load: $(grep -m1 Error "$cache/log")"
        return 1
    fi
}
