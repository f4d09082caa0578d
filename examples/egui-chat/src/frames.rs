//! Frame times, with and without inference, and their live plot.

use eframe::egui::{self, Color32, Pos2, Stroke};
use std::collections::VecDeque;
use std::time::Instant;

/// Frames of each kind that percentiles are taken of.
const KEPT: usize = 600;
/// Frames across the plot, and the least milliseconds that it is tall.
const SHOWN: usize = 240;
const LEAST: f32 = 40.0;

#[derive(Default)]
pub struct Frames {
    last: Option<Instant>,
    /// Milliseconds, and whether an answer was on its way.
    recent: VecDeque<(f32, bool)>,
    with: VecDeque<f32>,
    without: VecDeque<f32>,
}

impl Frames {
    /// A frame begins. What happens in the first after a pause says nothing.
    pub fn tick(&mut self, answering: bool) {
        let now = Instant::now();
        let Some(last) = self.last.replace(now) else { return };
        let ms = (now - last).as_secs_f32() * 1e3;
        let kind = if answering { &mut self.with } else { &mut self.without };
        kind.push_back(ms);
        self.recent.push_back((ms, answering));
        for times in [&mut self.with, &mut self.without] {
            times.drain(..times.len().saturating_sub(KEPT));
        }
        self.recent.drain(..self.recent.len().saturating_sub(SHOWN));
    }

    /// The 50th and 99th percentile in milliseconds, with or without inference.
    pub fn percentiles(&self, answering: bool) -> Option<[f32; 2]> {
        let mut sorted: Vec<f32> = if answering { &self.with } else { &self.without }.iter().copied().collect();
        sorted.sort_by(f32::total_cmp);
        let last = sorted.len().checked_sub(1)?;
        Some([50, 99].map(|percent| sorted[last * percent / 100]))
    }

    pub fn ui(&self, ui: &mut egui::Ui) {
        let size = egui::vec2(ui.available_width(), 120.0);
        let (response, painter) = ui.allocate_painter(size, egui::Sense::hover());
        let rect = response.rect;
        let tall = self.recent.iter().map(|(ms, _)| *ms).fold(LEAST, f32::max);
        painter.rect_filled(rect, 4.0, ui.visuals().extreme_bg_color);
        for (i, (ms, answering)) in self.recent.iter().enumerate() {
            let x = rect.left() + rect.width() * i as f32 / SHOWN as f32;
            let top = rect.bottom() - rect.height() * ms / tall;
            let colour = if *answering { Color32::from_rgb(80, 140, 255) } else { Color32::GRAY };
            painter.line_segment([Pos2::new(x, rect.bottom()), Pos2::new(x, top)], Stroke::new(1.5, colour));
        }
        let sixtieth = rect.bottom() - rect.height() * (1000.0 / 60.0) / tall;
        painter.hline(rect.x_range(), sixtieth, Stroke::new(1.0, Color32::from_rgb(200, 120, 60)));
        egui::Grid::new("frame times").num_columns(3).show(ui, |ui| {
            let (without, with) = (self.percentiles(false), self.percentiles(true));
            row(ui, "frame time", ["p50", "p99"].map(String::from));
            row(ui, "idle", texts(without));
            row(ui, "answering", texts(with));
            let difference = without.zip(with).map(|(a, b)| [b[0] - a[0], b[1] - a[1]]);
            row(ui, "difference", texts(difference));
        });
    }
}

fn texts(percentiles: Option<[f32; 2]>) -> [String; 2] {
    percentiles.map_or(["", ""].map(String::from), |p| p.map(|ms| format!("{ms:.1} ms")))
}

fn row(ui: &mut egui::Ui, name: &str, values: [String; 2]) {
    ui.label(name);
    values.into_iter().for_each(|value| drop(ui.monospace(value)));
    ui.end_row();
}

/// What the app draws beside the chat: something that must not stutter.
pub fn animation(ui: &mut egui::Ui) {
    let size = egui::vec2(ui.available_width(), 110.0);
    let (response, painter) = ui.allocate_painter(size, egui::Sense::hover());
    let (rect, time) = (response.rect, ui.input(|i| i.time) as f32);
    for ring in 0..24 {
        let at = time * 1.3 + ring as f32 * 0.26;
        let centre =
            rect.center() + egui::vec2(at.sin() * rect.width() * 0.42, (at * 1.7).cos() * rect.height() * 0.36);
        let colour = Color32::from_rgb(90 + ring * 6, 140, 255 - ring * 7);
        painter.circle_filled(centre, 3.0 + f32::from(ring) * 0.35, colour);
    }
}
