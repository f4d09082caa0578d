//! `halogen run`: answers, where they go, and what is said beside them.

use super::*;

/// Prompts of a chat and the greedy answers that another implementation gave.
fn expected() -> Vec<(String, String, Value)> {
    let expected: Value = serde_json::from_str(include_str!("../demo-expected.json")).expect("JSON");
    let text = |entry: &Value, key: &str| entry[key].as_str().expect("a text").to_string();
    let entries = expected["chat"].as_array().expect("entries").iter();
    entries.map(|e| (text(e, "prompt"), text(e, "answer"), e["ids"].clone())).collect()
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
fn weights_in_the_files_own_pages_say_the_same() {
    let (path, (prompt, answer, _)) = (file("import.gguf"), &expected()[0]);
    std::fs::copy("assets/rust-docs-moe-q4_k_m.gguf", &path).expect("a file");
    let output = halogen(&["run", &path, prompt, "--temp", "0", "--import"]);
    if stderr(&output).contains("cannot read weights in the file's own pages") {
        eprintln!("skipped: {}", stderr(&output));
        return;
    }
    assert_eq!(stdout(&output), format!("{answer}\n"), "{}", stderr(&output));
    assert!(stderr(&output).contains("MB are read in the file's own pages"), "{}", stderr(&output));
    fails(halogen(&["run", "demo", prompt, "--import"]), &["demo: its pages", "no file on a disk"]);
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
