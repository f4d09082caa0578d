//! `halogen bench`, from outside: it measures, and its reports can be read and compared.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn folder() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench");
    std::fs::create_dir_all(&folder).expect("a folder for temporary files");
    folder
}

fn bench(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_halogen"));
    command.arg("bench").args(args).env("XDG_CACHE_HOME", folder());
    command.output().expect("halogen starts")
}

/// stdout and stderr of a run that succeeds.
fn succeeds(args: &[&str]) -> (String, String) {
    let output = bench(args);
    let [out, err] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).expect("UTF-8"));
    assert_eq!(output.status.code(), Some(0), "{args:?}: {err}");
    (out, err)
}

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&succeeds(args).0).expect("JSON")
}

fn positive(value: &Value) -> bool {
    value.as_f64().is_some_and(|v| v > 0.0 && v.is_finite())
}

#[test]
fn a_model_is_measured() {
    let said = json(&["model", "demo", "-p", "8", "-n", "4", "-r", "2", "-o", "json"]);
    let names: Vec<&str> = said["rows"].as_array().expect("rows").iter().filter_map(|r| r["name"].as_str()).collect();
    assert_eq!(names, ["pp8", "tg4"]);
    for row in said["rows"].as_array().expect("rows") {
        assert_eq!((&row["unit"], &row["figure"]["samples"]), (&"t/s".into(), &2.into()));
        for key in ["fraction_of_bound", "dispatches", "submits", "host_microseconds"] {
            assert!(positive(&row[key]), "{row}");
        }
        assert!(positive(&row["figure"]["mean"]), "{row}");
    }
    // A dispatch is in the profile once.
    let profiled: u64 =
        said["kernels"].as_array().expect("kernels").iter().filter_map(|k| k["dispatches"].as_u64()).sum();
    assert_eq!(said["rows"][1]["dispatches"], profiled);
}

#[test]
fn a_prompt_beyond_the_context_is_cut() {
    let args = ["model", "demo", "-p", "4", "-n", "0", "-d", "1000000", "-r", "1"];
    let (out, err) = succeeds(&args);
    assert!(err.contains("note: pp4 after 1000000 tokens is left out: the model's context is"), "{err}");
    assert!(!out.contains("| pp"), "{out}");
}

#[test]
fn kernels_are_checked_timed_plotted_and_compared() {
    let svg = folder().join("roofline.svg");
    let args = ["kernels", "--op", "matvec", "--format", "q4_k", "--shape", "256x256", "--time", "20", "-o", "json"];
    let (out, _) = succeeds(&[&args[..], &["--plot", svg.to_str().expect("UTF-8")]].concat());
    let said: Value = serde_json::from_str(&out).expect("JSON");
    let row = &said["rows"][0];
    assert_eq!((&row["name"], &row["flops"]), (&"matvec q4_k 256x256".into(), &(2 * 256 * 256).into()));
    assert!(positive(&row["fraction_of_limit"]) && positive(&row["figure"]["median"]), "{row}");
    assert!(row["nmse"].as_f64().expect("a number") <= 1e-6, "{row}");
    let plot = std::fs::read_to_string(&svg).expect("a plot");
    assert!(plot.starts_with("<svg") && plot.contains("matvec q4_k 256x256"));

    let file = folder().join("kernels.json");
    std::fs::write(&file, out).expect("written");
    let file = file.to_str().expect("UTF-8");
    let (out, _) = succeeds(&["compare", file, file]);
    assert!(out.contains("1.00 ±") && out.contains("no difference"), "{out}");
}

#[test]
fn operators_are_measured_with_their_kernels() {
    let args =
        ["kernels", "--op", "experts,matmul", "--format", "q8_0", "--shape", "64x128", "--time", "1", "-o", "csv"];
    let (out, _) = succeeds(&args);
    let names: Vec<&str> = out.lines().filter_map(|line| line.split(',').next()).collect();
    let experts = "experts q8_0 8 of 128 64x128";
    let of_experts = [format!("{experts} / matvec"), format!("{experts} / expert_down")];
    assert_eq!(names, ["name", "matmul q8_0 64x128 by 128", experts, &of_experts[0], &of_experts[1]]);
}

#[test]
fn operators_without_matrices_are_measured() {
    let svg = folder().join("rows.svg");
    let ops = "norm,heads,router,quantise,embed,index,delta";
    let said = json(&["kernels", "--op", ops, "--time", "1", "-o", "json", "--plot", svg.to_str().expect("UTF-8")]);
    let rows = said["rows"].as_array().expect("rows");
    for op in ops.split(',') {
        let of: Vec<&Value> = rows.iter().filter(|r| r["op"] == op).collect();
        assert!(of.len() >= 2 && of.iter().all(|r| positive(&r["fraction_of_limit"])), "{op}: {of:?}");
    }
    // An operator of several kernels is drawn by them; what computes nothing has no place.
    let plot = std::fs::read_to_string(&svg).expect("a plot");
    assert!(plot.contains("/ delta_net (") && plot.contains("/ index_scores (") && !plot.contains("norm 2048"));
}

#[test]
fn each_tier_has_rows_of_its_own_arithmetic() {
    let args = ["kernels", "--op", "matvec,grouped", "--format", "q8_0", "--shape", "64x128", "--tier", "all"];
    let said = json(&[&args[..], &["--time", "1", "-o", "json"]].concat());
    let rows = said["rows"].as_array().expect("rows");
    let arithmetic = |name: &str| rows.iter().find(|r| r["name"] == name).map(|r| r["arithmetic"].clone());
    let tiers = said["tier"].as_str().expect("tiers").split(',');
    for tier in tiers.filter(|tier| ["f16", "dot", "matrix"].contains(tier)) {
        let grouped = format!("grouped q8_0 8 of 128 64x128 by 128 @ {tier}");
        assert_eq!(arithmetic(&grouped), Some(tier.into()), "{rows:?}");
        // There is no mat-vec in f16: that of a lower tier is not measured again.
        let matvec = arithmetic(&format!("matvec q8_0 64x128 @ {tier}"));
        assert_eq!(matvec, (tier == "dot").then(|| tier.into()), "{rows:?}");
    }
    assert!(rows.iter().all(|r| r["nmse"].as_f64().is_some_and(|nmse| nmse < 5e-4)), "{rows:?}");
}

#[test]
fn usage_is_told() {
    for (args, says) in [
        (&["kernels", "--shape", "3x"][..], "ROWSxCOLUMNS"),
        (&["kernels", "--op", "magic"], "matvec"),
        (&["kernels", "--tier", "fast"], "subgroup"),
        (&["model", "-r", "0"], "--repetitions"),
    ] {
        let output = bench(args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(says), "{said}");
    }
    let output = bench(&["kernels", "--format", "q9_z"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("q4_k"));
}

#[test]
fn budgets_of_experts_are_held_against_their_bound() {
    let plot = folder().join("experts.svg");
    let plot = plot.to_str().expect("UTF-8");
    let said = json(&[
        "experts",
        "demo",
        "-n",
        "6",
        "-r",
        "2",
        "--budgets",
        "50,100",
        "--experts",
        "disk",
        "--json",
        "--plot",
        plot,
    ]);
    let rows = said["rows"].as_array().expect("rows");
    let names: Vec<&str> = rows.iter().filter_map(|r| r["name"].as_str()).collect();
    assert_eq!(names, ["tg6 @ 100 %", "tg6 @ 50 %"]);
    assert!(positive(&said["resident_step_seconds"]) && positive(&said["read_bytes_per_second"]), "{said}");
    let number = |row: usize, key: &str| rows[row][key].as_f64().expect("a number");
    assert_eq!((number(0, "hit_rate"), number(0, "missed_bytes_per_token")), (1.0, 0.0));
    assert!(number(1, "hit_rate") < 1.0 && number(1, "missed_bytes_per_token") > 0.0, "{said}");
    assert!(number(1, "bound_tokens_per_second") < number(0, "bound_tokens_per_second"), "{said}");
    assert!(number(1, "halts_per_token") > 0.0 && rows[0]["seconds_per_halt"].is_null(), "{said}");
    let halving = &rows[0]["halving"];
    assert!(halving["share"] == 50 && positive(&halving["excess"]) && halving["within"].is_boolean(), "{said}");
    assert!(rows[1]["halving"].is_null() && said["kept"] == "file", "{said}");
    assert!(std::fs::read_to_string(plot).expect("a plot").contains("polyline"));
    let text = bench(&["experts", "demo", "-n", "2", "-r", "1", "--budgets", "100,50,25", "-ncmoe", "2"]);
    let (table, notes) = (String::from_utf8_lossy(&text.stdout), String::from_utf8_lossy(&text.stderr));
    assert!(table.contains("half costs") && table.contains("copies of experts in host memory"), "{table}{notes}");
    assert!(notes.contains("first 2 layers live in host memory"), "{notes}");
    let dense = bench(&["experts", "/nonexistent.gguf"]);
    assert_eq!(dense.status.code(), Some(1));
}

#[test]
fn a_load_is_measured_beside_plain_reads() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/rust-docs-moe-q4_k_m.gguf");
    let said = json(&["load", file, "-r", "2", "--upload", "ring,in-place", "--json"]);
    let rows = said["rows"].as_array().expect("rows");
    assert_eq!(rows.iter().map(|r| &r["page_cache"]).collect::<Vec<_>>(), ["warm", "warm", "cold", "cold"]);
    assert_eq!(rows.iter().map(|r| &r["upload"]).collect::<Vec<_>>(), ["ring", "in_place", "ring", "in_place"]);
    for row in rows {
        for name in ["plain", "fresh", "load"] {
            assert!(positive(&row[name]["median"]) && row[name]["samples"] == 2, "{name}: {row}");
        }
        for name in ["fraction_of_plain", "fraction_of_fresh", "seconds", "layout_share"] {
            assert!(positive(&row[name]), "{name}: {row}");
        }
        // Not a speed: what staging may take at most, of a model of a few MiB.
        let above = row["host_above_plan"].as_i64();
        assert!(!cfg!(target_os = "linux") || above.is_some_and(|bytes| bytes < 512 << 20), "{row}");
    }
    assert!(rows.iter().all(|row| row["imported"] == 0.0), "{said}");
    let missing = bench(&["load", "/no/such.gguf"]);
    assert_eq!(missing.status.code(), Some(1));
}

/// What stays in the file's pages takes no memory of the process's own.
#[test]
fn an_import_takes_memory_for_the_rest_alone() {
    let file = folder().join("import.gguf");
    let path = file.to_str().expect("UTF-8");
    let mut write = Command::new(env!("CARGO_BIN_EXE_halogen"));
    let written = write.args(["fit", "--like", "gemma-3-4b:q4_k", "--layers", "1", "--write", path]).output();
    assert!(written.expect("halogen starts").status.success());
    let output = bench(&["load", path, "-r", "1", "--upload", "in-place,import", "--json"]);
    let size = std::fs::metadata(&file).expect("a file").len();
    std::fs::remove_file(&file).expect("a file");
    let err = String::from_utf8_lossy(&output.stderr);
    if err.contains("cannot read weights in the file's own pages") {
        eprintln!("skipped: {err}");
        return;
    }
    let said: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{err}"));
    for row in said["rows"].as_array().expect("rows") {
        let imported = row["imported"].as_f64().expect("a share") * size as f64;
        assert_eq!(imported > 0.9 * size as f64, row["upload"] == "import", "{row}");
        // The plan has no room for what is imported: if that took memory, it would be above.
        let above = row["host_above_plan"].as_i64();
        assert!(!cfg!(target_os = "linux") || above.is_some_and(|bytes| bytes < 64 << 20), "{row}");
    }
}
