//! The command line, from outside: what it prints where, and how it exits.

mod memory;
mod run;

use halogen::gguf::{Metadata, Writer};
use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Runs halogen with nothing on stdin; the tests share a cache.
fn halogen(args: &[&str]) -> Output {
    piped(args, b"")
}

fn piped(args: &[&str], stdin: &[u8]) -> Output {
    let mut child = command(args).stdin(Stdio::piped()).spawn().expect("halogen starts");
    // One that fails before it reads closes the pipe.
    let _ = child.stdin.take().expect("piped").write_all(stdin);
    child.wait_with_output().expect("halogen ends")
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_halogen"));
    command.args(args).env("XDG_CACHE_HOME", folder()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("cli")
}

fn file(name: &str) -> String {
    std::fs::create_dir_all(folder()).expect("a folder for temporary files");
    folder().join(name).to_str().expect("a path in UTF-8").to_string()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).expect("UTF-8")
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).expect("UTF-8")
}

/// stdout of a run that succeeds.
fn succeeds(args: &[&str]) -> String {
    let output = halogen(args);
    assert_eq!(output.status.code(), Some(0), "{args:?}: {}", stderr(&output));
    stdout(&output).to_string()
}

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&succeeds(args)).expect("JSON")
}

/// Fails with exit code 1 and one last line that begins with `error: ` and holds all of `parts`.
#[track_caller]
fn fails(output: Output, parts: &[&str]) {
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let errors: Vec<&str> = said.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "{said}");
    for part in parts {
        assert!(errors[0].contains(part), "`{part}` is not in: {said}");
    }
}

#[test]
fn help_names_all_commands() {
    let help = succeeds(&["--help"]);
    for command in ["run", "devices", "show", "logits", "completions", "Examples:"] {
        assert!(help.contains(command), "{command}");
    }
    let options = succeeds(&["run", "--help"]);
    let names = [
        "--prompt",
        "--max-tokens",
        "--ctx",
        "--ctx-size",
        "--temp",
        "--top-k",
        "--top-p",
        "--min-p",
        "--repeat-penalty",
        "--seed",
        "--system",
        "--stop",
        "--think",
        "--raw",
        "--device",
        "--tier",
        "--json",
        "--verbose",
        "-n,",
        "-c,",
        "-p,",
    ];
    for name in names {
        assert!(options.contains(name), "{name}");
    }
    assert!(!options.contains("-t,") && !options.contains("-s,"), "they mean other things to llama.cpp's users");
}

#[test]
fn completions_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        assert!(succeeds(&["completions", shell]).contains("halogen"), "{shell}");
    }
}

#[test]
fn wrong_usage_exits_with_2() {
    let wrong: [&[&str]; 9] = [
        &[],
        &["fly"],
        &["run", "--temp", "warm"],
        &["run", "--tier", "fast", "-p", "x"],
        &["run", "-n", "0", "-p", "x"],
        &["run", "demo", "one", "-p", "two"],
        &["run", "-t", "4", "-p", "x"],
        &["logits"],
        &["logits", "demo", "--tokens", "1,two", "--out", "x"],
    ];
    for args in wrong {
        let output = halogen(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(stdout(&output).is_empty() && !stderr(&output).is_empty(), "{args:?}");
    }
}

#[test]
fn models_that_cannot_be_opened_are_named() {
    fails(halogen(&["run", "missing.gguf", "hi"]), &["missing.gguf", "no such file"]);
    fails(halogen(&["run", "llama3"]), &["llama3", "no such file", "-p"]);
    fails(halogen(&["show", "missing.gguf"]), &["missing.gguf"]);
    let path = file("text.gguf");
    std::fs::write(&path, "this is no model, but long enough for a header").expect("written");
    fails(halogen(&["run", &path, "hi"]), &["text.gguf", "not a GGUF file"]);
    let half = std::fs::read("assets/rust-docs-moe-q4_k_m.gguf").expect("the embedded model");
    let path = file("half.gguf");
    std::fs::write(&path, &half[..half.len() / 2]).expect("written");
    fails(halogen(&["run", &path, "hi"]), &["half.gguf", "tensor"]);
}

#[test]
fn values_out_of_range_are_named() {
    fails(halogen(&["run", "-c", "16", "-p", "What is error E0382 in the language Rust?"]), &["24", "16"]);
    fails(halogen(&["run", "-p", "x", "--device", "99"]), &["99", "there are: 0 "]);
    fails(halogen(&["run", "-p", "x", "--device", "Voodoo2"]), &["Voodoo2", "there are: 0 "]);
    fails(halogen(&["run", "-p", "x", "--temp=-1"]), &["temperature", "-1"]);
    fails(halogen(&["run", "-p", "x", "--top-p", "0"]), &["top-p", "0"]);
}

#[test]
fn logits_are_written_or_not_begun() {
    let path = file("logits.safetensors");
    succeeds(&["logits", "demo", "--tokens", "3,14,15", "--out", &path]);
    let bytes = std::fs::read(&path).expect("written");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
    let logits = file.tensor("logits").expect("a tensor of that name");
    assert_eq!((logits.shape(), logits.dtype()), (&[3, 4096][..], safetensors::Dtype::F32));
    assert!(logits.data().chunks_exact(4).all(|b| f32::from_le_bytes(b.try_into().expect("4 bytes")).is_finite()));

    fails(halogen(&["logits", "demo", "--tokens", "3,4096", "--out", &path]), &["4096", "vocabulary"]);
    assert_eq!(std::fs::read(&path).expect("still there"), bytes, "an error leaves the file as it was");
    let new = self::file("new.safetensors");
    fails(halogen(&["logits", "demo", "--tokens", "4096", "--out", &new]), &["4096"]);
    assert!(!Path::new(&new).exists(), "an error leaves no file");
    fails(halogen(&["logits", "demo", "--tokens", "3", "--out", "/no/such/folder/x"]), &["/no/such/folder/x"]);
}

#[test]
fn devices_tell_tiers_and_what_they_reach() {
    let devices = json(&["devices", "--json"]);
    let device = &devices[0];
    let heaps = device["memory"]["heaps"].as_array().expect("heaps");
    assert!(heaps.iter().any(|h| h["device_local"] == true && h["bytes"].as_u64() > Some(0)), "{heaps:?}");
    assert_eq!(device["tiers"][0], "core");
    assert!(device["limits"]["binding_bytes"].as_u64().is_some_and(|b| b >= 1 << 27));
    assert!(device["profile"]["stream_bytes_per_second"].as_f64().is_some_and(|v| v > 0.0));
    let text = succeeds(&["devices"]);
    assert!(text.contains("tiers") && text.contains("measured"), "{text}");
}

#[test]
fn a_closed_pipe_is_success() {
    for args in [&["show", "demo"][..], &["--help"], &["run", "-p", "What is trait Clone?"], &["completions", "zsh"]] {
        let mut child = command(args).stdin(Stdio::null()).spawn().expect("halogen starts");
        drop(child.stdout.take());
        let output = child.wait_with_output().expect("halogen ends");
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", stderr(&output));
        assert!(!stderr(&output).contains("error") && !stderr(&output).contains("panic"), "{}", stderr(&output));
    }
}
