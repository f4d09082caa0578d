//! A conversation in a window: what is asked, and the answer as it comes.

use eframe::egui;
use halogen::session::Budget;
use halogen::tokenizer::{Control, Decoder};
use halogen::{Gguf, Gpu, Model, Sampling, Session, SessionOptions};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::time::Duration;

static MODEL: &[u8] = include_bytes!("../../../assets/rust-docs-moe-q4_k_m.gguf");

pub struct Turn {
    pub user: bool,
    pub text: String,
}

/// The session is made on a thread: reading weights and compiling kernels take a moment.
enum Engine {
    Loading(Receiver<News>, String),
    Ready(Box<Session>),
}

enum News {
    Progress(String),
    Done(Result<Session, halogen::Error>),
}

/// Loads the model and compiles its kernels. Nobody listens where the window is closed already.
fn load(gpu: &Gpu, news: &Sender<News>) -> Result<Session, halogen::Error> {
    let say = |what, done, total| drop(news.send(News::Progress(format!("{what}: {done} of {total}"))));
    let gguf = Gguf::from_static("demo", MODEL)?;
    let model = pollster::block_on(Model::load(gpu, &gguf, |p| {
        say("loading the model, bytes", p.bytes, p.total);
        true
    }))?;
    let mut warm_up = model.warm_up(&SessionOptions::default())?;
    while !warm_up.advance(Duration::from_millis(50))? {
        let (done, total) = warm_up.progress();
        say("compiling kernels", done as u64, total as u64);
    }
    warm_up.finish()
}

pub struct Chat {
    engine: Engine,
    pub turns: Vec<Turn>,
    text: Option<Decoder>,
    pub prompt: String,
    pub error: Option<String>,
    sampling: Sampling,
    pub budget_ms: f32,
}

impl Chat {
    pub fn new(gpu: Gpu) -> Chat {
        let (sender, receiver) = channel();
        std::thread::spawn(move || drop(sender.send(News::Done(load(&gpu, &sender)))));
        let (turns, prompt) = (Vec::new(), String::from("What is error E0382?"));
        let (sampling, budget_ms) = (Sampling::default(), 4.0);
        let engine = Engine::Loading(receiver, String::from("loading the model"));
        Chat { engine, turns, text: None, prompt, error: None, sampling, budget_ms }
    }

    fn session(&mut self) -> Option<&mut Session> {
        match &mut self.engine {
            Engine::Ready(session) => Some(session),
            Engine::Loading(..) => None,
        }
    }

    pub fn is_ready(&mut self) -> bool {
        self.session().is_some()
    }

    pub fn is_answering(&mut self) -> bool {
        self.session().is_some_and(|session| session.is_answering())
    }

    /// GPU time given and not seen to end.
    pub fn given(&mut self) -> Duration {
        self.session().map_or(Duration::ZERO, |session| session.given())
    }

    /// Once a frame, after the frame before was submitted.
    pub fn advance(&mut self) {
        while let Engine::Loading(news, progress) = &mut self.engine {
            match news.try_recv() {
                Ok(News::Progress(text)) => *progress = text,
                Ok(News::Done(Ok(session))) => self.engine = Engine::Ready(Box::new(session)),
                Ok(News::Done(Err(error))) => self.error = Some(error.to_string()),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            }
        }
        let budget = Budget::gpu_time(Duration::from_secs_f32(self.budget_ms / 1e3));
        let Some(advanced) = self.session().map(|session| session.advance(budget)) else { return };
        match advanced {
            Ok(tokens) => {
                let (Some(text), Some(turn)) = (&mut self.text, self.turns.last_mut()) else { return };
                tokens.iter().for_each(|token| turn.text.push_str(&text.push(token.id)));
            }
            Err(error) => self.error = Some(error.to_string()),
        }
    }

    pub fn ask(&mut self) {
        let (prompt, sampling) = (std::mem::take(&mut self.prompt), self.sampling.clone());
        let Some(session) = self.session() else { return };
        let model = session.model().clone();
        let asked =
            model.prompt(&prompt).and_then(|ids| session.ask(&ids, &sampling, model.tokenizer().end_tokens(), 200));
        self.error = asked.err().map(|error| error.to_string());
        self.text = Some(model.tokenizer().stream(Control::Skip));
        self.turns.push(Turn { user: true, text: prompt });
        self.turns.push(Turn { user: false, text: String::new() });
    }

    /// What a driver does that gives up, for tests.
    pub fn lose_the_device(&mut self) {
        self.session().into_iter().for_each(|session| session.model().gpu().device().destroy());
    }

    pub fn stop(&mut self) {
        self.session().into_iter().for_each(Session::stop);
    }

    pub fn settings(&mut self, ui: &mut egui::Ui) {
        ui.add(egui::Slider::new(&mut self.budget_ms, 0.1..=16.0).text("GPU ms a frame"));
        ui.add(egui::Slider::new(&mut self.sampling.temperature, 0.0..=2.0).text("temperature"));
        ui.add(egui::Slider::new(&mut self.sampling.top_p, 0.05..=1.0).text("top-p"));
        ui.add(egui::Slider::new(&mut self.sampling.top_k, 0..=100).text("top-k"));
        let used = self.session().map(|session| session.gpu_use()).unwrap_or_default();
        ui.label(format!("{} submits, {} over the budget", used.submits, used.over));
    }

    pub fn ui(&mut self, ui: &mut egui::Ui) {
        let (ready, answering) = (self.is_ready(), self.is_answering());
        egui::Panel::bottom("prompt").show(ui, |ui| {
            ui.add_space(6.0);
            ui.horizontal(|ui| {
                let entry =
                    ui.add(egui::TextEdit::singleline(&mut self.prompt).desired_width(ui.available_width() - 70.0));
                let entered = entry.lost_focus() && ui.input(|i| i.key_pressed(egui::Key::Enter));
                if answering {
                    if ui.button("Stop").clicked() {
                        self.stop();
                    }
                } else if (ui.add_enabled(ready, egui::Button::new("Ask")).clicked() || entered) && ready {
                    self.ask();
                }
            });
            ui.add_space(6.0);
        });
        egui::CentralPanel::default().show(ui, |ui| {
            egui::ScrollArea::vertical().auto_shrink(false).stick_to_bottom(true).show(ui, |ui| {
                for turn in &self.turns {
                    let text = egui::RichText::new(&turn.text);
                    ui.label(if turn.user { text.strong() } else { text });
                    ui.add_space(8.0);
                }
                if let Some(error) = &self.error {
                    ui.colored_label(ui.visuals().error_fg_color, error);
                } else if let Engine::Loading(_, progress) = &self.engine {
                    ui.label(progress);
                }
            });
        });
    }
}
