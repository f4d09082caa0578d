//! `--record`: the app without a user, for tests and pictures. It idles for some frames, answers for as many, takes a picture,
//! stops the answer, leaves in the middle of it or loses the device, and closes.

use crate::chat::Chat;
use crate::frames::Frames;
use eframe::egui;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

/// The embedded model knows the documentation of Rust.
const PROMPT: &str = "What is error E0382?";

/// Bytes that a picture is to show, unless they take so many times the frames that were asked for.
const ENOUGH: usize = 60;
const MOST: usize = 20;

/// What ends an answer.
#[derive(Clone, Copy, PartialEq)]
pub enum End {
    Stop,
    Leave,
    Lose,
}

pub struct Script {
    record: PathBuf,
    png: Option<PathBuf>,
    count: usize,
    end: End,
    frame: usize,
    /// For a picture.
    asked: bool,
    stopped_at: Option<usize>,
    pictures: (Sender<Arc<egui::ColorImage>>, Receiver<Arc<egui::ColorImage>>),
}

impl Script {
    pub fn new(record: PathBuf, png: Option<PathBuf>, count: usize, end: End) -> Script {
        Script { record, png, count, end, frame: 0, asked: false, stopped_at: None, pictures: channel() }
    }

    pub fn loses_the_device(&self) -> bool {
        self.end == End::Lose
    }

    /// What happens in a frame, from that on in which the model is loaded.
    pub fn frame(&mut self, context: &egui::Context, chat: &mut Chat, frames: &Frames) {
        if chat.error.is_some() {
            return self.finish(context, chat, frames, None);
        }
        if !chat.is_ready() {
            return;
        }
        self.frame += 1;
        if self.frame >= self.count && self.stopped_at.is_none() && !chat.is_answering() {
            chat.prompt = PROMPT.into();
            chat.ask();
        }
        let said: usize = chat.turns.iter().filter(|turn| !turn.user).map(|turn| turn.text.len()).sum();
        if !self.asked && self.frame >= 2 * self.count && (said >= ENOUGH || self.frame >= MOST * self.count) {
            self.asked = true;
            let sender = self.pictures.0.clone();
            // Nobody waits for it where the window is closed.
            context.request_screenshot(move |image| drop(sender.send(image)));
        }
        if self.asked {
            let Ok(image) = self.pictures.1.try_recv() else { return self.after_stop(context, chat, frames) };
            if let Some(path) = &self.png {
                save(path, &image).expect("the picture can be written");
            }
            match self.end {
                End::Stop => chat.stop(),
                End::Leave => return self.finish(context, chat, frames, None),
                // The error that the answer ends with ends the script.
                End::Lose => return chat.lose_the_device(),
            }
            self.stopped_at = Some(self.frame);
        }
    }

    /// Closes once the device has nothing left of the answer that was stopped.
    fn after_stop(&mut self, context: &egui::Context, chat: &mut Chat, frames: &Frames) {
        let Some(stopped_at) = self.stopped_at else { return };
        if chat.given().is_zero() {
            self.finish(context, chat, frames, Some(self.frame - stopped_at));
        }
    }

    fn finish(&mut self, context: &egui::Context, chat: &Chat, frames: &Frames, stopped_within: Option<usize>) {
        let percentiles =
            |answering| frames.percentiles(answering).map(|[p50, p99]| json!({"p50_ms": p50, "p99_ms": p99}));
        let report = json!({
            "frames": self.frame,
            "budget_ms": chat.budget_ms,
            "idle": percentiles(false),
            "answering": percentiles(true),
            "answers": chat.turns.iter().filter(|turn| !turn.user).map(|turn| &turn.text).collect::<Vec<_>>(),
            "stopped_within_frames": stopped_within,
            "error": chat.error,
        });
        std::fs::write(&self.record, format!("{report:#}\n")).expect("the record can be written");
        context.send_viewport_cmd(egui::ViewportCommand::Close);
    }
}

fn save(path: &Path, image: &egui::ColorImage) -> Result<(), Box<dyn std::error::Error>> {
    let file = std::io::BufWriter::new(std::fs::File::create(path)?);
    let mut encoder = png::Encoder::new(file, image.width() as u32, image.height() as u32);
    encoder.set_color(png::ColorType::Rgba);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.write_header()?.write_image_data(image.as_raw())?;
    Ok(())
}
