//! A chat in an egui window. The model runs on the window's own device, within a budget of GPU time a frame.
//!
//!     egui-chat [--record OUT.json [--png OUT.png] [--frames N] [--end stop|leave|lose]]
//!
//! `--record` runs without a user: N frames idle and N answering (120), a picture, a record, the end.

mod chat;
mod frames;
mod script;

use chat::Chat;
use eframe::{egui, egui_wgpu, wgpu};
use frames::Frames;
use halogen::Gpu;
use script::{End, Script};
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
    let (mut record, mut png, mut count, mut end) = (None, None, 120, End::Stop);
    let mut args = std::env::args().skip(1);
    while let Some(name) = args.next() {
        let value = args.next().unwrap_or_else(|| panic!("{name} wants a value"));
        match name.as_str() {
            "--record" => record = Some(value.into()),
            "--png" => png = Some(value.into()),
            "--frames" => count = value.parse().expect("--frames wants a number"),
            "--end" => {
                end = match value.as_str() {
                    "stop" => End::Stop,
                    "leave" => End::Leave,
                    "lose" => End::Lose,
                    _ => panic!("--end wants stop, leave or lose"),
                }
            }
            _ => panic!("unknown option {name}"),
        }
    }
    record.map(|record| Script::new(record, png, count, end))
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
            let (mut device, mut queue) = (state.device.clone(), state.queue.clone());
            if script.as_ref().is_some_and(Script::loses_the_device) {
                // The window lives on: egui-wgpu 0.37 panics where its own is lost.
                let mut descriptor = wgpu::DeviceDescriptor::default();
                Gpu::extend(&state.adapter, &mut descriptor);
                (device, queue) = pollster::block_on(state.adapter.request_device(&descriptor))?;
            }
            let gpu = Gpu::from_wgpu(&state.adapter, device, queue)?;
            Ok(Box::new(App { chat: Chat::new(gpu), frames: Frames::default(), script }))
        }),
    )
}
