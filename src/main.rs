//! The command line's door.

mod cli;

fn main() -> std::process::ExitCode {
    silence_device_select();
    cli::main()
}

/// Mesa's layer that sorts devices asks the display which of them it is on, and where there is no display its libraries
/// write errors to stderr. halogen sorts devices itself.
fn silence_device_select() {
    let headless = std::env::var_os("XDG_RUNTIME_DIR").is_none();
    if cfg!(target_os = "linux") && headless {
        // SAFETY: no other thread runs yet.
        unsafe { std::env::set_var("NODEVICE_SELECT", "1") };
    }
}
