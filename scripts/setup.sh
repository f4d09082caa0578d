# Sourced by ./demo and ./check: what they need, installed once.

# A Vulkan loader and driver: the system's, or Mesa's (which has lavapipe, a software device).
ensure_vulkan() {
    case "$(uname -s)" in Linux) ;; *) return 0 ;; esac
    if ldconfig -p 2>/dev/null | grep -q libvulkan.so.1 && ls /usr/share/vulkan/icd.d/*.json /etc/vulkan/icd.d/*.json >/dev/null 2>&1; then
        return 0
    fi
    if ! command -v apt-get >/dev/null; then
        echo "no Vulkan driver found; install one for your GPU, or Mesa's (lavapipe runs on the CPU)" >&2
        return 1
    fi
    local sudo=""
    [ "$(id -u)" = 0 ] || sudo="sudo"
    echo "+ $sudo apt-get install mesa-vulkan-drivers libvulkan1"
    $sudo apt-get update -qq
    $sudo apt-get install -y -qq --no-install-recommends mesa-vulkan-drivers libvulkan1 >/dev/null
}

# The Rust toolchain; a C compiler is not needed to build, only its linker.
ensure_rust() {
    if ! command -v cargo >/dev/null; then
        echo "cargo not found; install Rust 1.95 or later from https://rustup.rs" >&2
        return 1
    fi
}
