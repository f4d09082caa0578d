# Sourced by ./demo and ./check: what they need, installed once.

# A Vulkan loader and driver: the system's, or Mesa's (which has lavapipe, a software device).
ensure_vulkan() {
    case "$(uname -s)" in Linux) ;; *) return 0 ;; esac
    # ldconfig lies outside of an ordinary user's PATH on Debian.
    if PATH="$PATH:/usr/sbin:/sbin" ldconfig -p 2>/dev/null | grep libvulkan.so.1 >/dev/null &&
        { compgen -G '/usr/share/vulkan/icd.d/*.json' || compgen -G '/etc/vulkan/icd.d/*.json'; } >/dev/null; then
        return 0
    fi
    if ! command -v apt-get >/dev/null; then
        echo "no Vulkan driver found; install one for your GPU, or Mesa's (lavapipe runs on the CPU)" >&2
        return 1
    fi
    local sudo=""
    [ "$(id -u)" = 0 ] || sudo="sudo"
    echo "+ ${sudo:+$sudo }apt-get install mesa-vulkan-drivers libvulkan1"
    $sudo apt-get update -qq
    $sudo apt-get install -y -qq --no-install-recommends mesa-vulkan-drivers libvulkan1 >/dev/null
}

# A display for tests of windows that nobody sees, and what a window needs; elsewhere there is one, or they are skipped.
ensure_display() {
    if [ "$(uname -s)" != Linux ] || command -v xvfb-run >/dev/null || ! command -v apt-get >/dev/null; then return 0; fi
    local sudo=""
    [ "$(id -u)" = 0 ] || sudo="sudo"
    echo "+ ${sudo:+$sudo }apt-get install xvfb"
    $sudo apt-get update -qq
    $sudo apt-get install -y -qq --no-install-recommends \
        xvfb xauth libxkbcommon-x11-0 libx11-xcb1 libxcursor1 libxi6 libxrandr2 >/dev/null
}

# The Rust toolchain; a C compiler is not needed to build, only its linker.
ensure_rust() {
    if ! command -v cargo >/dev/null; then
        echo "cargo not found; install Rust 1.95 or later from https://rustup.rs" >&2
        return 1
    fi
}
