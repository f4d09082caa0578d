//! The plan drawn: what each memory holds, to scale, and the rates between them.

use super::report::Report;
use crate::cli::human;
use halogen::memory::Plan;
use std::fmt::Write;

const WIDTH: f64 = 790.0;
const LEFT: f64 = 110.0;
const BAR: f64 = WIDTH - LEFT - 20.0;
const HEIGHT: f64 = 44.0;
const STEP: f64 = 104.0;
const TOP: f64 = 70.0;
/// Light enough for dark text, and apart for who sees no red or green.
const COLORS: [(&str, &str); 6] = [
    ("dense weights", "#88bbee"),
    ("routed experts", "#ffcc66"),
    ("routed experts, cached", "#ffcc66"),
    ("KV cache", "#99cc99"),
    ("scratch", "#cccccc"),
    ("streamed weights", "#bbd5f0"),
];

/// Draws the best plan.
pub fn draw(report: &Report) -> String {
    let (plan, setting) = report.best();
    let machine = match (setting, &report.target.set) {
        (Some(_), Some((_, machine))) => machine,
        _ => &report.target.machine,
    };
    let rate = |rate: f64| human::rate(rate);
    let mut memories = vec![("device", machine.device, format!("read at {}", rate(machine.stream)))];
    if !machine.unified && plan.places.iter().any(|p| p.at == "host memory") {
        memories.push(("host memory", machine.ram, format!("over the link at {}", rate(machine.link))));
    }
    if plan.places.iter().any(|p| p.at == "disk") {
        let bytes = plan.places.iter().filter(|p| p.at == "disk").map(|p| p.bytes).sum();
        memories.push(("disk", bytes, format!("read at {}", rate(machine.disk))));
    }
    let height = TOP + STEP * memories.len() as f64 + 14.0;
    let most = memories.iter().map(|m| m.1).max().unwrap_or(1).max(1) as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"white\"/>\n\
         <text x=\"20\" y=\"26\" font-size=\"16\">{} on {}</text>\n<text x=\"20\" y=\"46\" fill=\"#444444\">at most {} t/s; {}</text>\n",
        escape(report.name),
        escape(&report.target.title),
        human::short(plan.decode.tokens_per_second),
        escape(setting.unwrap_or(&report.target.why)),
    );
    for (i, (at, bytes, how)) in memories.iter().enumerate() {
        memory(&mut svg, plan, TOP + STEP * i as f64, (at, *bytes, how), BAR / most);
    }
    svg + "</svg>\n"
}

/// One memory: a frame to scale with what lies in it.
fn memory(svg: &mut String, plan: &Plan, y: f64, (at, bytes, how): (&str, u64, &str), scale: f64) {
    let mut put = |line: std::fmt::Arguments| writeln!(svg, "{line}").expect("a string takes all");
    put(format_args!("<text x=\"20\" y=\"{}\">{at}</text>", y + 18.0));
    put(format_args!("<text x=\"20\" y=\"{}\" fill=\"#444444\">{}</text>", y + 34.0, human::bytes(bytes)));
    let mut x = LEFT;
    let mut labels = Vec::new();
    for place in plan.places.iter().filter(|p| p.at == at) {
        let width = place.bytes as f64 * scale;
        let color = COLORS.iter().find(|(what, _)| *what == place.what).map_or("#ffe4b0", |(_, color)| color);
        put(format_args!(
            "<rect x=\"{x:.1}\" y=\"{y}\" width=\"{width:.1}\" height=\"{HEIGHT}\" fill=\"{color}\" stroke=\"#666666\" stroke-width=\"0.5\"/>"
        ));
        labels.push((color, format!("{} {}", place.what, human::bytes(place.bytes))));
        x += width;
    }
    let frame = bytes as f64 * scale;
    put(format_args!(
        "<rect x=\"{LEFT}\" y=\"{y}\" width=\"{frame:.1}\" height=\"{HEIGHT}\" fill=\"none\" stroke=\"#222222\"/>"
    ));
    let mut x = LEFT;
    for (color, label) in labels {
        put(format_args!(
            "<rect x=\"{x}\" y=\"{}\" width=\"10\" height=\"10\" fill=\"{color}\" stroke=\"#666666\" stroke-width=\"0.5\"/>",
            y + HEIGHT + 8.0
        ));
        put(format_args!("<text x=\"{}\" y=\"{}\">{label}</text>", x + 14.0, y + HEIGHT + 17.0));
        x += 26.0 + 6.7 * label.len() as f64;
    }
    put(format_args!("<text x=\"{LEFT}\" y=\"{}\" fill=\"#444444\">{how}</text>", y + HEIGHT + 34.0));
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
