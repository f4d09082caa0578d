//! A chat in an egui window. The model runs on the window's own device, within a budget of GPU time a frame.
//!
//!     egui-chat [--record OUT.json [--png OUT.png] [--frames N] [--end stop|leave]]
//!
//! `--record` runs without a user: N frames idle and N answering (120), a picture, a record, the end.

mod chat;
mod frames;
mod script;

use chat::Chat;
use eframe::{egui, egui_wgpu, wgpu};
use frames::Frames;
use halogen::Gpu;
use script::Script;
use std::sync::Arc;

struct App {
    chat: Chat,
    frames: Frames,
    script: Option<Script>,
}

impl eframe::App for App {
    /// Before the frame is drawn, and after the one before was submitted.
    fn logic(&mut self, context: &egui::Context, _: &mut eframe::Frame) {
        self.frames.tick(self.chat.is_answering());
        self.chat.advance();
        if let Some(script) = &mut self.script {
            script.frame(context, &mut self.chat, &self.frames);
        }
        context.request_repaint();
    }

    fn ui(&mut self, ui: &mut egui::Ui, _: &mut eframe::Frame) {
        egui::Panel::right("beside").exact_size(300.0).show(ui, |ui| {
            frames::animation(ui);
            self.frames.ui(ui);
            ui.separator();
            self.chat.settings(ui);
        });
        self.chat.ui(ui);
    }
}

/// The window's device, with what halogen can use of the adapter.
fn device() -> egui_wgpu::WgpuConfiguration {
    let mut setup = egui_wgpu::WgpuSetupCreateNew::without_display_handle();
    setup.instance_descriptor.flags = wgpu::InstanceFlags::empty().with_env();
    let describe = setup.device_descriptor;
    setup.device_descriptor = Arc::new(move |adapter| {
        let mut descriptor = describe(adapter);
        Gpu::extend(adapter, &mut descriptor);
        descriptor
    });
    egui_wgpu::WgpuConfiguration { wgpu_setup: egui_wgpu::WgpuSetup::CreateNew(setup), ..Default::default() }
}

fn script() -> Option<Script> {
    let (mut record, mut png, mut count, mut leave) = (None, None, 120, false);
    let mut args = std::env::args().skip(1);
    while let Some(name) = args.next() {
        let value = args.next().unwrap_or_else(|| panic!("{name} wants a value"));
        match name.as_str() {
            "--record" => record = Some(value.into()),
            "--png" => png = Some(value.into()),
            "--frames" => count = value.parse().expect("--frames wants a number"),
            "--end" => leave = value == "leave",
            _ => panic!("unknown option {name}"),
        }
    }
    record.map(|record| Script::new(record, png, count, leave))
}

fn main() -> eframe::Result {
    let viewport = egui::ViewportBuilder::default().with_inner_size([900.0, 560.0]);
    let options = eframe::NativeOptions { viewport, wgpu_options: device(), ..Default::default() };
    let script = script();
    eframe::run_native(
        "halogen",
        options,
        Box::new(|context| {
            let state = context.wgpu_render_state.as_ref().ok_or("eframe draws with wgpu")?;
            let gpu = Gpu::from_wgpu(&state.adapter, state.device.clone(), state.queue.clone())?;
            Ok(Box::new(App { chat: Chat::new(gpu), frames: Frames::default(), script }))
        }),
    )
}
