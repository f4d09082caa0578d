//! `halogen show` and `halogen fit`: what a model takes, where it would lie, and budgets that it is held to.

use super::*;

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
fn what_does_not_fit_is_refused_before_it_is_loaded() {
    let needs = ["does not fit", "weights", "KV cache", "scratch", "available"];
    let output = halogen(&["run", "-p", "x", "-c", "1000000000"]);
    // Only devices that share the host's memory tell how much there is.
    match stderr(&output).contains("does not fit") {
        true => fails(output, &needs),
        false => assert_ne!(output.status.code(), Some(0)),
    }
    // A budget says what would do, one that does not hold the cache, too; and that does.
    for budget in ["6MiB", "1KiB"] {
        let output = halogen(&["run", "demo", "-p", "x", "-c", "512", "--gpu-memory", budget]);
        let least = stderr(&output)
            .split_once("fewer than the ")
            .and_then(|(_, rest)| rest.split(' ').next())
            .map(String::from);
        fails(output, &["for cache and scratch", "two slots of", "experts of a token", "larger --gpu-memory"]);
        let least = least.expect("the least that can do");
        succeeds(&["run", "demo", "-p", "x", "-n", "1", "-c", "512", "--gpu-memory", &least]);
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
    fails(
        halogen(&[&args[..], &["--gpu-memory", "3MB"]].concat()),
        &["that can do", "3000000", "for cache and scratch"],
    );
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
