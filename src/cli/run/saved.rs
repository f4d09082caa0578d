//! Conversations in files.

use super::options::SamplingArgs;
use super::setup::Runner;
use anyhow::{Context, Result, bail};
use halogen::session::Conversation;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Writes the conversation to a file, whole or not at all; gives its bytes.
pub fn save(runner: &mut Runner, messages: &[Value], file: &Path) -> Result<u64> {
    let mut new = file.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    let conversation = Conversation { sampling: runner.sampling.clone(), app: json!({ "messages": messages }) };
    let mut write = || -> Result<u64> {
        let mut out = BufWriter::new(File::create(&new)?);
        runner.session.blocking_save(&mut out, &conversation)?;
        out.flush()?;
        let bytes = out.get_ref().metadata()?.len();
        fs::rename(&new, file)?;
        Ok(bytes)
    };
    write().with_context(|| file.display().to_string()).inspect_err(|_| {
        let _ = fs::remove_file(&new);
    })
}

/// Goes on from a file, with its sampling but for what `given` says; gives the messages.
pub fn resume(runner: &mut Runner, given: &SamplingArgs, path: &Path) -> Result<Vec<Value>> {
    let name = path.display().to_string();
    let file = File::open(path).with_context(|| name.clone())?;
    let metadata = file.metadata().with_context(|| name.clone())?;
    if !metadata.is_file() {
        bail!("{name}: not a regular file");
    }
    let mut conversation = runner.session.blocking_resume(&name, metadata.len(), &mut BufReader::new(file))?;
    let messages = match conversation.app["messages"].take() {
        Value::Array(messages) if messages.iter().all(is_message) => messages,
        _ => {
            runner.session.clear();
            bail!("{name}: it holds no messages that `halogen run` wrote");
        }
    };
    runner.sampling = given.over(conversation.sampling)?;
    Ok(messages)
}

fn is_message(message: &Value) -> bool {
    message["role"].is_string() && message["content"].is_string()
}
