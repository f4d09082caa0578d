//! The command line, from outside: what it prints where, and how it exits.

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

/// Prompts of a chat and the greedy answers that another implementation gave.
fn expected() -> Vec<(String, String, Value)> {
    let expected: Value = serde_json::from_str(include_str!("demo-expected.json")).expect("JSON");
    let text = |entry: &Value, key: &str| entry[key].as_str().expect("a text").to_string();
    let entries = expected["chat"].as_array().expect("entries").iter();
    entries.map(|e| (text(e, "prompt"), text(e, "answer"), e["ids"].clone())).collect()
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
fn answers_are_those_of_another_implementation() {
    for (prompt, answer, ids) in expected().iter().take(6) {
        let said = json(&["run", "demo", prompt, "--temp", "0", "--json"]);
        assert_eq!(said["text"].as_str(), Some(answer.as_str()), "{prompt}");
        assert_eq!(&said["tokens"], ids, "{prompt}");
        assert_eq!(said["stop_reason"], "end_token");
    }
    let (prompt, answer, _) = &expected()[0];
    for tier in ["core", "subgroup"] {
        assert_eq!(succeeds(&["run", "demo", prompt, "--temp", "0", "--tier", tier]), format!("{answer}\n"), "{tier}");
    }
}

#[test]
fn layers_on_two_devices_say_the_same() {
    let (prompt, _, ids) = &expected()[0];
    let args = ["run", "demo", prompt, "--temp", "0", "--json", "--device", "0,0"];
    let output = halogen(&args);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let said: Value = serde_json::from_str(stdout(&output)).expect("JSON");
    assert_eq!(&said["tokens"], ids);
    let devices = said["stats"]["devices"].as_array().expect("devices");
    let layers: Vec<u64> = devices.iter().map(|d| d["layers"].as_u64().expect("a number")).collect();
    assert!(layers.len() == 2 && layers[0] == devices[1]["first_layer"].as_u64().expect("a number"), "{devices:?}");
    assert!(stderr(&output).contains("note: layers 0 to "), "{}", stderr(&output));
    let fit = succeeds(&["fit", "demo", "--device", "0,0"]);
    assert!(fit.contains("layers lie on 2 devices"), "{fit}");
    fails(halogen(&["bench", "device", "--device", "0,0"]), &["--device 0,0", "bench model"]);
}

#[test]
fn the_answer_goes_to_stdout_and_the_rest_to_stderr() {
    let output = halogen(&["run", "demo", "What is error E0382?", "--temp", "0"]);
    assert_eq!(stdout(&output), "A variable was used after its contents have been moved elsewhere.\n");
    let last = stderr(&output).lines().last().unwrap_or_default();
    for part in ["prompt 20 at ", "answer 14 at ", "tok/s", "loaded in ", "B/s", "of weights a token", " bound"] {
        assert!(last.contains(part), "`{part}` is not in: {last}");
    }
    assert_eq!(stderr(&output).lines().count(), 1, "{}", stderr(&output));
}

#[test]
fn json_holds_all_stats() {
    let said = json(&["run", "-p", "What is trait Clone?", "--json", "--seed", "7", "-n", "5"]);
    assert_eq!(said["stop_reason"], "limit");
    assert_eq!(said["seed"], 7);
    assert_eq!(said["tokens"].as_array().map(Vec::len), Some(5));
    let names = [
        "prompt_tokens",
        "generated_tokens",
        "load_seconds",
        "load_bytes",
        "prefill_tokens_per_second",
        "decode_tokens_per_second",
        "dispatches_per_token",
        "submits_per_token",
        "readbacks_per_token",
        "host_microseconds_per_token",
        "weight_bytes_per_token",
        "kv_bytes_per_token",
        "stream_bytes_per_second",
        "dispatch_seconds",
        "fraction_of_bound",
    ];
    for name in names {
        assert!(said["stats"][name].as_f64().is_some_and(|v| v > 0.0), "{name}: {}", said["stats"]);
    }
    assert_eq!(said["stats"]["generated_tokens"], 5);
    assert_eq!((&said["stats"]["submits_per_token"], &said["stats"]["submits_reason"]), (&1.0.into(), &Value::Null));

    // A tiny bound cuts steps, says so, and changes no token.
    let cut = json(&["run", "-p", "What is trait Clone?", "--json", "--seed", "7", "-n", "5", "--submit-ms", "1"]);
    assert_eq!(cut["tokens"], said["tokens"]);
    let (submits, reason) = (&cut["stats"]["submits_per_token"], cut["stats"]["submits_reason"].as_str());
    assert!(
        submits.as_f64() > Some(1.0) && reason.is_some_and(|why| why.contains("a submit holds 1.00 ms at most")),
        "{cut}"
    );
}

#[test]
fn a_seed_reproduces_the_text() {
    let say = |seed: &str| succeeds(&["run", "--raw", "-p", "Once upon", "-n", "12", "--temp", "1.5", "--seed", seed]);
    assert_eq!(say("7"), say("7"));
    let others = ["8", "9", "10", "11"].map(say);
    assert!(others.iter().any(|text| *text != say("7")), "{others:?}");
}

#[test]
fn stdin_is_the_prompt_or_follows_on_it() {
    let (prompt, answer, _) = &expected()[0];
    let output = piped(&["run", "--temp", "0"], format!("{prompt}\n").as_bytes());
    assert_eq!(stdout(&output), format!("{answer}\n"));
    let count = |output: Output| stderr(&output).split_whitespace().nth(1).and_then(|n| n.parse::<usize>().ok());
    let alone = count(halogen(&["run", "demo", "Explain:", "-n", "1"]));
    assert!(count(piped(&["run", "demo", "Explain:", "-n", "1"], b"what a trait is")) > alone);
    fails(halogen(&["run"]), &["the prompt is empty"]);
    fails(piped(&["run"], b"ab\xffcd"), &["not valid UTF-8", "byte at 2"]);
}

#[test]
fn an_answer_ends_before_a_stop_string() {
    let said = json(&[
        "run",
        "-p",
        "What is error E0382?",
        "--temp",
        "0",
        "--json",
        "--stop",
        "its contents",
        "--stop",
        "zzz",
    ]);
    assert_eq!(said["text"], "A variable was used after ");
    assert_eq!(said["stop_reason"], "stop_string");
    assert_eq!(said["stop_string"], "its contents");
}

#[test]
fn raw_prompts_are_not_templated() {
    let chat = json(&["run", "-p", "What is trait Clone?", "--temp", "0", "--json"]);
    let raw = "<|im_start|>user\nWhat is trait Clone?<|im_end|>\n<|im_start|>assistant\n";
    let by_hand = json(&["run", "-p", raw, "--raw", "--temp", "0", "--json"]);
    assert_eq!(chat["text"], by_hand["text"]);
    assert_eq!(chat["stats"]["prompt_tokens"], by_hand["stats"]["prompt_tokens"]);
    // In a message, control tokens are text.
    let quoted = json(&["run", "-p", raw, "--temp", "0", "--json", "-n", "1"]);
    assert!(quoted["stats"]["prompt_tokens"].as_u64() > chat["stats"]["prompt_tokens"].as_u64());
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
fn show_counts_bytes() {
    let shown = json(&["show", "demo", "--json"]);
    assert_eq!(shown["architecture"], "qwen3moe");
    assert_eq!(shown["hyperparameters"]["qwen3moe.expert_count"], 8);
    assert_eq!(shown["metadata"]["tokenizer.ggml.tokens"]["length"], 4096);
    let tensors = shown["tensors"].as_array().expect("tensors");
    let sum = |key: &str| tensors.iter().filter_map(|t| t[key].as_u64()).sum::<u64>();
    assert_eq!(shown["total_bytes"], sum("bytes"));
    assert_eq!(shown["active_bytes_per_token"], sum("active_bytes"));
    let experts = tensors.iter().find(|t| t["name"] == "blk.0.ffn_up_exps.weight").expect("experts");
    assert_eq!(experts["active_bytes"].as_u64().map(|b| 4 * b), experts["bytes"].as_u64());
    assert!(succeeds(&["show", "demo"]).contains("with 2 of 8 experts"));
    assert_eq!(succeeds(&["show"]), succeeds(&["show", "demo"]), "no MODEL means demo");
    let least = succeeds(&["show", "demo", "--gpu-memory", "1MB"]);
    for part in
        ["lookups a step more", "of 6 layers, the embedding and the output matrix in", "through two slots of", "a step"]
    {
        assert!(least.contains(part), "{part}: {least}");
    }
    let half = json(&["show", "demo", "--gpu-memory", "6MB", "--json"]);
    assert!(half["placement"]["experts"]["bytes"].as_u64() > Some(0) && half["placement"]["dense"].is_null(), "{half}");
    fails(halogen(&["show", "demo", "--gpu-memory", "500kB"]), &["that can do", "500000"]);
}

#[test]
fn show_notes_blocks_that_are_passed_over() {
    let mut metadata = Metadata::new();
    metadata.insert("general.architecture", "glm4moe".into());
    metadata.insert("glm4moe.block_count", 2u32.into());
    metadata.insert("glm4moe.nextn_predict_layers", 1u32.into());
    let mut writer = Writer::new(&metadata).expect("an alignment");
    writer.tensor("blk.0.attn_norm.weight", &[8], 0, &[0; 32]).expect("a tensor");
    writer.tensor("blk.1.nextn.enorm.weight", &[4], 0, &[0; 16]).expect("a tensor");
    let path = file("prediction.gguf");
    writer.write(&mut std::fs::File::create(&path).expect("a file")).expect("written");
    assert!(succeeds(&["show", &path]).contains("16 B  in blocks that predict further tokens, which are passed over"));
    let shown = json(&["show", &path, "--json"]);
    assert_eq!((&shown["total_bytes"], &shown["active_bytes_per_token"]), (&48.into(), &32.into()));
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

/// The embedded model with other metadata; a value of `None` takes the key away.
fn variant(name: &str, changes: &[(&str, Option<halogen::gguf::Value>)]) -> String {
    use halogen::gguf::{Gguf, Metadata, Writer};
    let gguf = Gguf::open(Path::new("assets/rust-docs-moe-q4_k_m.gguf")).expect("the embedded model");
    let mut metadata = Metadata::new();
    for (key, value) in gguf.metadata().iter().filter(|(key, _)| changes.iter().all(|(changed, _)| changed != key)) {
        metadata.insert(key, value.clone());
    }
    for (key, value) in changes {
        value.iter().for_each(|value| metadata.insert(*key, value.clone()));
    }
    let read = |tensor| {
        let tensor: &halogen::gguf::TensorInfo = tensor;
        let mut bytes = vec![0; tensor.bytes as usize];
        gguf.blocking_read(tensor, 0, &mut bytes).map(|()| bytes).expect("a tensor's bytes")
    };
    let bytes: Vec<Vec<u8>> = gguf.tensors().iter().map(read).collect();
    let mut writer = Writer::new(&metadata).expect("metadata");
    for (tensor, bytes) in gguf.tensors().iter().zip(&bytes) {
        writer.tensor(&tensor.name, &tensor.dims, tensor.ggml_type, bytes).expect("a tensor");
    }
    let path = file(name);
    let mut file = std::fs::File::create(&path).expect("created");
    writer.write(&mut file).expect("written");
    path
}

#[test]
fn think_reaches_the_template() {
    let template = "{{ messages[-1].content }}{% if enable_thinking is defined %}\
                    {{ ' a b c' if enable_thinking else ' a b c d e f' }}{% endif %}";
    let path = variant("think.gguf", &[("tokenizer.chat_template", Some(template.into()))]);
    let tokens = |options: &[&str]| {
        let said = json(&[&["run", &path, "x", "--json", "-n", "1"], options].concat());
        said["stats"]["prompt_tokens"].as_u64().expect("a count")
    };
    assert!(tokens(&[]) < tokens(&["--think", "on"]));
    assert!(tokens(&["--think", "on"]) < tokens(&["--think", "off"]));
}

#[test]
fn files_say_how_to_sample_and_may_lack_a_template() {
    let changes = [("tokenizer.chat_template", None), ("general.sampling.temp", Some(0f32.into()))];
    let path = variant("plain.gguf", &changes);
    let run = |seed: &str| halogen(&["run", &path, "-p", "Once upon", "-n", "12", "--seed", seed]);
    let first = run("1");
    assert!(stderr(&first).contains("no chat template"), "{}", stderr(&first));
    assert!(!stdout(&first).is_empty());
    assert_eq!(stdout(&first), stdout(&run("2")), "temperature 0 comes from the file");
    assert_eq!(stdout(&first), succeeds(&["run", "demo", "--raw", "-p", "Once upon", "-n", "12", "--temp", "0"]));
}

#[test]
fn what_does_not_fit_is_refused_before_it_is_loaded() {
    let needs = ["does not fit", "weights", "KV cache", "scratch", "available"];
    let output = halogen(&["run", "-p", "x", "-c", "1000000000"]);
    // Only devices that share the host's memory tell how much there is.
    match stderr(&output).contains("does not fit") {
        true => fails(output, &needs),
        false => assert_ne!(output.status.code(), Some(0)),
    }
}

#[test]
fn experts_that_do_not_fit_come_and_go() {
    let args = ["run", "demo", "What is error E0382?", "--temp", "0", "-c", "256", "--json"];
    let whole = json(&args);
    assert!(whole["stats"]["experts"].is_null());
    // Of what the embedded model takes with this context, the experts are more than a half.
    let budget = [&args[..], &["--gpu-memory", "9MB"]].concat();
    let some = json(&budget);
    assert_eq!(some["text"], whole["text"]);
    let stats = &some["stats"];
    assert_eq!(stats["weight_bytes_per_token"], whole["stats"]["weight_bytes_per_token"]);
    let count = |name: &str| stats["experts"][name].as_f64().expect("a number");
    assert!(
        count("misses") > 0.0 && count("hits") > 0.0 && count("bytes") > 1e5 && count("stall_seconds") > 0.0,
        "{stats}"
    );
    // Slots that all layers share, and dense layers that pass through.
    let least = json(&[&args[..], &["--gpu-memory", "5MB"]].concat());
    assert_eq!(least["text"], whole["text"]);
    assert!(least["stats"]["experts"]["streamed"].as_f64() > Some(1e6), "{least}");
    fails(halogen(&[&args[..], &["--gpu-memory", "4MB"]].concat()), &["that can do", "4000000", "two slots"]);
    fails(halogen(&[&args[..], &["--gpu-memory", "3MB"]].concat()), &["does not fit", "3000000"]);
}

#[test]
fn placement_is_asked_for_as_llama_cpp_does() {
    let args = ["run", "demo", "What is error E0382?", "--temp", "0", "-c", "128", "-n", "8"];
    let whole = halogen(&args);
    for (options, note) in [
        (&["-ncmoe", "2"][..], "the first 2 layers live in host memory; they are computed on the GPU"),
        (&["-cmoe", "-ub", "16"], "all layers live in host memory"),
        (&["-ot", "exps=CPU", "-ngl", "99"], "all layers live in host memory"),
        (&["-ngl", "3", "--experts", "disk"], "all 6 layers are computed on the GPU"),
    ] {
        let said = halogen(&[&args[..], options].concat());
        assert_eq!(said.stdout, whole.stdout, "{options:?}");
        let notes = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(notes.contains(note) && !notes.contains("fit at once"), "{options:?}: {notes}");
        assert_eq!(notes.contains("of experts were there"), options[0] != "-ngl", "{options:?}: {notes}");
    }
    let refused = halogen(&[&args[..], &["-ot", "attn=CPU"]].concat());
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("attn=CPU"));
    fails(halogen(&[&args[..], &["-cmoe", "--experts", "disk"]].concat()), &["--experts disk"]);
}

#[test]
fn fit_says_where_a_model_would_lie() {
    let text = succeeds(&["fit", "--like", "qwen3-235b-a22b:q2_k", "--machine", "rtx-3060"]);
    for part in ["235 B parameters", "fits in part", "routed experts, cached", "host memory", "t/s", "hits from"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let strix = json(&["fit", "--like", "gpt-oss-120b", "--machine", "strix-halo-128", "--json"]);
    assert_eq!(strix["plan"]["fit"], "resident");
    assert_eq!(strix["machine"]["name"], "strix-halo-128");
    assert!(strix["plan"]["decode"]["tokens_per_second"].as_f64() > Some(10.0));
    let here = json(&["fit", "demo", "--json", "-c", "64"]);
    assert_eq!((here["plan"]["fit"].as_str(), here["demand"]["context"].as_u64()), (Some("resident"), Some(64)));
    let skewed = ["fit", "--like", "glm-4.5-air", "--machine", "rtx-3060", "--routing", "zipf:1", "--json"];
    assert!(json(&skewed)["plan"]["hit_rate"].as_f64() > json(&skewed)["plan"]["cached_share"].as_f64());
    let card =
        |more: &[&str]| json(&[&["fit", "--like", "glm-4.5-air", "--machine", "rtx-3060", "--json"], more].concat());
    let (cached, on_host, on_disk) = (card(&[]), card(&["-cmoe"]), card(&["--experts", "disk"]));
    assert!(on_host["plan"]["hit_rate"].as_f64() < cached["plan"]["hit_rate"].as_f64(), "{on_host}");
    assert!(
        on_disk["plan"]["decode"]["link_bytes"] == 0.0 && on_disk["plan"]["decode"]["disk_bytes"].as_f64() > Some(1e6)
    );
    assert!(cached["placement"]["experts"]["bytes"].as_u64() > Some(0), "{cached}");
    let streamed = succeeds(&["fit", "--like", "llama-3.3-70b", "--machine", "rtx-4090"]);
    assert!(streamed.contains("of 80 layers through two slots of"), "{streamed}");
}

#[test]
fn caches_of_rounded_keys_are_asked_for_as_llama_cpp_does() {
    let rounded = ["-ctk", "q8_0", "-ctv", "q8_0"];
    let fit = |more: &[&str]| {
        let all = [&["fit", "--like", "qwen3-30b-a3b", "--machine", "rtx-3060", "--json"], more].concat();
        json(&all)["demand"]["kv"].as_u64().expect("bytes")
    };
    assert_eq!(fit(&rounded) * 64, fit(&[]) * 34);
    let answer = ["run", "demo", "-p", "A borrow", "--raw", "-n", "4", "--temp", "0", "--json"];
    assert_eq!(json(&[&answer[..], &rounded].concat())["tokens"].as_array().map(Vec::len), Some(4));
    fails(halogen(&["run", "demo", "-p", "A", "-ctk", "q8_0"]), &["-ctk", "-ctv", "alike"]);
}

#[test]
fn fit_knows_all_presets_on_all_machines() {
    let text = succeeds(&["fit", "--matrix"]);
    assert!(text.contains("A  strix-halo-128") && text.contains("deepseek-r1:q4_k_m"), "{text}");
    let cells = json(&["fit", "--matrix", "--json", "--ram", "256"]);
    let cells = cells.as_array().expect("cells");
    assert_eq!(cells.len(), 26 * 13);
    let of = |model: &str, machine: &str| {
        let cell = cells.iter().find(|c| c["model"] == model && c["machine"] == machine).expect("a cell");
        (cell["plan"]["fit"].clone(), cell["plan_after_setting"]["fit"].clone())
    };
    assert_eq!(of("llama-3.3-70b", "rtx-4090").0, "streamed");
    assert_eq!(of("deepseek-r1", "m3-ultra-512"), ("resident".into(), "resident".into()));
    assert_eq!(of("step-3.5-flash", "strix-halo-128"), ("cached".into(), "resident".into()));
}

#[test]
fn fit_draws_writes_and_refuses() {
    let (svg, gguf) = (file("plan.svg"), file("made.gguf"));
    let like = ["--like", "gemma-3-4b:tq1_0", "--layers", "1"];
    let args = [&["fit", "--machine", "rtx-4090", "--plot", &svg, "--write", &gguf, "--json"][..], &like].concat();
    let made = json(&args);
    let drawn = std::fs::read_to_string(&svg).expect("a drawing");
    assert!(drawn.starts_with("<svg") && drawn.contains("dense weights") && drawn.ends_with("</svg>\n"));
    let written = json(&["fit", &gguf, "--machine", "rtx-4090", "--json"]);
    std::fs::remove_file(&gguf).expect("a file");
    assert_eq!(made["demand"], written["demand"]);
    fails(halogen(&["fit", "--like", "gpt-3"]), &["gpt-3", "qwen3-30b-a3b"]);
    fails(halogen(&["fit", "--like", "qwen3-14b:q9"]), &["q9", "q4_k_m"]);
    fails(halogen(&["fit", "--like", "qwen3-14b", "--layers", "41"]), &["41", "40"]);
    fails(halogen(&["fit", "--like", "qwen3-14b", "--machine", "abacus"]), &["abacus", "rtx-4090"]);
    fails(halogen(&["fit", "demo", "--machine", "gb10-128", "--ram", "64"]), &["--ram"]);
    assert_eq!(halogen(&["fit", "demo", "--routing", "zipf:x"]).status.code(), Some(2));
    assert_eq!(halogen(&["fit", "demo", "--like", "qwen3-14b"]).status.code(), Some(2));
}

#[test]
fn a_short_answer_is_not_told_to_be_fast() {
    // Both tokens were there when the first was seen, or the second took its time.
    let stats = &json(&["run", "demo", "x", "-n", "2", "--temp", "0", "--json"])["stats"];
    let fraction = stats["fraction_of_bound"].as_f64();
    assert!(fraction.is_none_or(|f| f < 2.0), "{stats}");
}

#[test]
fn a_saved_conversation_goes_on_where_it_was() {
    let talk = file("talk");
    let args = ["run", "demo", "-p", "What is a trait?", "-n", "12", "--seed", "5", "--json"];
    let first = json(&[&args[..], &["--save", &talk]].concat());
    let next = |words: &[&str]| {
        json(&[&["run", "demo", "-p", "And why?", "-n", "6", "--json", "--resume", &talk], words].concat())
    };
    let said = next(&[]);
    assert_eq!(said["seed"], 5);
    // All but the token sampled last, and what the template says anew.
    let known = first["stats"]["prompt_tokens"].as_u64().expect("a count");
    assert!(said["stats"]["cached_tokens"].as_u64().expect("a count") >= known);
    assert_eq!(next(&["--save", &talk])["tokens"], said["tokens"]);
    // Two turns are in it now; what is given replaces what it says.
    let third = next(&["--seed", "6"]);
    assert!(third["stats"]["prompt_tokens"].as_u64() > said["stats"]["prompt_tokens"].as_u64());
    assert_eq!(third["seed"], 6);

    fails(
        halogen(&["run", "demo", "-p", "x", "--resume", &talk, "-ctk", "q8_0", "-ctv", "q8_0"]),
        &["talk: ", "f16", "-ctk"],
    );
    fails(
        halogen(&["run", "demo", "-p", "x", "--resume", "Cargo.toml"]),
        &["Cargo.toml: this is no saved conversation"],
    );
    fails(halogen(&["run", "demo", "-p", "x", "--resume", "/no/such"]), &["/no/such"]);
    assert!(std::fs::metadata(&talk).is_ok() && std::fs::metadata(format!("{talk}.new")).is_err());
    let system = halogen(&["run", "demo", "-p", "x", "--resume", &talk, "--system", "y"]);
    assert_eq!(system.status.code(), Some(2));
}
