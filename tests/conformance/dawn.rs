//! The suite on Dawn, the WebGPU of Chromium: recordings go to a process of node (scripts/dawn.mjs) with the contents of
//! their buffers, and what its kernels wrote comes back into wgpu's buffers, where the cases compare it.

use halogen::gpu::{BindingKind, Dispatch, Gpu, Recording, View, compose};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{Error, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;

type Result<T> = std::result::Result<T, String>;

/// A process that executes recordings, one at a time.
pub struct Dawn {
    pipes: Mutex<(ChildStdin, ChildStdout)>,
    process: Child,
}

impl Dawn {
    /// Starts one, of the package `webgpu` in a folder of node's modules.
    pub fn start(modules: &str) -> Result<Dawn> {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/dawn.mjs");
        let mut command = Command::new("node");
        command.args([script, "run", modules]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().map_err(|e| format!("node does not start: {e}"))?;
        let (stdin, stdout) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
        let mut dawn = Dawn { pipes: Mutex::new((stdin, stdout)), process };
        let hello = answer(&mut dawn.pipes.get_mut().unwrap().1)?;
        eprintln!("{}", hello["device"].as_str().unwrap_or_default());
        Ok(dawn)
    }

    /// Executes a recording `times` times, with the bindings that wgpu gave its kernels.
    pub fn run(&self, gpu: &Gpu, recording: &Recording, times: usize) -> Result<()> {
        let mut buffers = Buffers::default();
        let dispatches = recording.dispatches.iter().map(|dispatch| described(dispatch, &mut buffers));
        let dispatches = dispatches.collect::<Result<Vec<Value>>>()?;
        let mut contents = Vec::new();
        for view in &buffers.views {
            contents.push(gpu.blocking_read::<u8>(view).map_err(|e| e.to_string())?);
        }
        let sizes: Vec<usize> = contents.iter().map(Vec::len).collect();
        let head = json!({ "times": times, "sizes": sizes, "written": buffers.written, "dispatches": dispatches });
        let mut pipes = self.pipes.lock().map_err(|_| "another case lost Dawn")?;
        let (stdin, stdout) = &mut *pipes;
        ask(stdin, &head, &contents).map_err(broken)?;
        if let Some(error) = answer(stdout)?["error"].as_str() {
            return Err(format!("Dawn refuses: {error}"));
        }
        for index in buffers.written {
            let mut bytes = vec![0; sizes[index]];
            stdout.read_exact(&mut bytes).map_err(broken)?;
            gpu.write(&buffers.views[index], 0, &bytes).map_err(|e| e.to_string())?;
        }
        Ok(())
    }
}

impl Drop for Dawn {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The whole buffers that a recording's bindings are parts of.
#[derive(Default)]
struct Buffers {
    views: Vec<View>,
    /// Which of them a kernel writes.
    written: BTreeSet<usize>,
}

impl Buffers {
    fn number(&mut self, view: &View) -> usize {
        self.views.iter().position(|known| known.buffer == view.buffer).unwrap_or_else(|| {
            self.views.push(View { buffer: view.buffer.clone(), offset: 0, size: view.buffer.size() });
            self.views.len() - 1
        })
    }
}

/// A dispatch in the words of scripts/dawn.mjs.
fn described(dispatch: &Dispatch, buffers: &mut Buffers) -> Result<Value> {
    let mut bindings = Vec::new();
    for binding in &dispatch.kernel.bindings {
        let kind = match binding.kind {
            BindingKind::Uniform => "uniform",
            BindingKind::Read => "read-only-storage",
            BindingKind::Write => "storage",
        };
        let bound = dispatch.bindings.iter().find(|(name, _)| *name == binding.name);
        let mut described = json!({ "index": binding.index, "type": kind });
        if let Some((_, view)) = bound {
            let buffer = buffers.number(view);
            if binding.kind == BindingKind::Write {
                buffers.written.insert(buffer);
            }
            described["part"] = json!({ "buffer": buffer, "offset": view.offset, "size": view.size });
        }
        bindings.push(described);
    }
    let wgsl = compose(&dispatch.kernel.spec).map_err(|e| e.to_string())?.wgsl;
    Ok(json!({ "wgsl": wgsl, "grid": dispatch.grid.0, "params": dispatch.params(), "bindings": bindings }))
}

/// Sends a message: the length of its head, the head, and what follows it.
fn ask(stdin: &mut ChildStdin, head: &Value, contents: &[Vec<u8>]) -> std::io::Result<()> {
    let head = serde_json::to_vec(head)?;
    stdin.write_all(&(head.len() as u32).to_le_bytes())?;
    stdin.write_all(&head)?;
    contents.iter().try_for_each(|bytes| stdin.write_all(bytes))?;
    stdin.flush()
}

/// The head of the next message.
fn answer(stdout: &mut ChildStdout) -> Result<Value> {
    let mut length = [0; 4];
    stdout.read_exact(&mut length).map_err(broken)?;
    let mut head = vec![0; u32::from_le_bytes(length) as usize];
    stdout.read_exact(&mut head).map_err(broken)?;
    serde_json::from_slice(&head).map_err(|e| format!("Dawn's answer: {e}"))
}

fn broken(e: Error) -> String {
    format!("Dawn answers no more: {e}")
}
