//! The window, on a display that nobody sees: `xvfb-run`, which `scripts/setup.sh` installs.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Runs the app's script; what it recorded, and its picture.
fn record(name: &str, end: &str) -> Option<(serde_json::Value, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (json, png): (PathBuf, PathBuf) = (folder.join(format!("{name}.json")), folder.join(format!("{name}.png")));
    let mut command = match cfg!(target_os = "linux") && std::env::var_os("DISPLAY").is_none() {
        false => Command::new(env!("CARGO_BIN_EXE_egui-chat")),
        true => {
            let mut command = Command::new("xvfb-run");
            command.args(["-a", "-s", "-screen 0 1024x700x24", env!("CARGO_BIN_EXE_egui-chat")]);
            command
        }
    };
    let run = command.arg("--record").arg(&json).arg("--png").arg(&png).args(["--frames", "40", "--end", end]).output();
    let Ok(run) = run else {
        eprintln!("skipped: no display, and no xvfb-run to make one");
        return None;
    };
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let report = std::fs::read(&json).expect("a record");
    let mut reader = png::Decoder::new(std::io::BufReader::new(std::fs::File::open(&png).expect("a picture")))
        .read_info()
        .expect("a PNG");
    let mut pixels = vec![0; reader.output_buffer_size().expect("a size")];
    reader.next_frame(&mut pixels).expect("pixels");
    Some((serde_json::from_slice(&report).expect("JSON"), pixels))
}

#[test]
fn an_answer_streams_into_the_window_and_stops() {
    let Some((report, pixels)) = record("streams", "stop") else { return };
    assert!(report["error"].is_null(), "{report:#}");
    let answers = report["answers"].as_array().expect("answers").iter().filter_map(|answer| answer.as_str());
    assert!(answers.map(str::len).sum::<usize>() > 10, "{report:#}");
    assert!(report["idle"]["p99_ms"].is_number() && report["answering"]["p99_ms"].is_number(), "{report:#}");
    assert!(report["stopped_within_frames"].as_u64().expect("it stopped") <= 2, "{report:#}");
    let mut colours: Vec<&[u8]> = pixels.chunks_exact(4).collect();
    colours.sort_unstable();
    colours.dedup();
    assert!(colours.len() > 50, "{} colours: the picture is blank", colours.len());
}

#[test]
fn a_device_that_is_lost_in_the_middle_of_an_answer_is_an_error_in_the_window() {
    let Some((report, _)) = record("loses", "lose") else { return };
    assert!(report["error"].as_str().is_some_and(|error| error.contains("lost")), "{report:#}");
    let answers = report["answers"].as_array().expect("answers").iter().filter_map(|answer| answer.as_str());
    assert!(answers.map(str::len).sum::<usize>() > 10, "{report:#}");
}

#[test]
fn a_window_closes_in_the_middle_of_an_answer() {
    let Some((report, _)) = record("leaves", "leave") else { return };
    assert!(report["error"].is_null() && report["stopped_within_frames"].is_null(), "{report:#}");
}
