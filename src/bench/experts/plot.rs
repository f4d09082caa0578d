//! The table drawn: tokens a second over the share of the experts that fits.

use super::super::roofline::escape;
use super::ExpertReport;
use std::fmt::Write;

/// Where the plot lies, and how large it is.
const LEFT: f64 = 70.0;
const TOP: f64 = 50.0;
const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 320.0;

/// Draws tokens a second over the share of the experts that fits: measured, and the bound.
pub fn expert_plot(title: &str, report: &ExpertReport) -> String {
    let bottom = TOP + HEIGHT;
    let most =
        report.rows.iter().map(|r| r.bound_tokens_per_second.max(r.row.figure.median)).fold(1e-9, f64::max) * 1.1;
    let x = |share: u32| LEFT + WIDTH * f64::from(share) / 100.0;
    let y = |rate: f64| bottom - HEIGHT * rate / most;
    let (width, height) = (LEFT + WIDTH + 40.0, bottom + 60.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"{LEFT}\" y=\"28\" font-size=\"16\">{}</text>\n",
        escape(title)
    );
    let mut put = |line: std::fmt::Arguments| writeln!(svg, "{line}").expect("a string takes all");
    for quarter in 0..=4u32 {
        let (share, rate) = (25 * quarter, most * f64::from(quarter) / 4.0);
        put(format_args!(
            "<path d=\"M{:.1} {TOP}V{bottom}M{LEFT} {:.1}h{WIDTH}\" stroke=\"#ddd\"/>",
            x(share),
            y(rate)
        ));
        put(format_args!(
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{share} %</text>",
            x(share),
            bottom + 18.0
        ));
        put(format_args!("<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{rate:.1}</text>", LEFT - 8.0, y(rate) + 4.0));
    }
    let middle = LEFT + WIDTH / 2.0;
    put(format_args!(
        "<text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">of the experts in slots</text>",
        bottom + 42.0
    ));
    let bounds = report.rows.iter().map(|r| r.bound_tokens_per_second).collect::<Vec<_>>();
    let rates = report.rows.iter().map(|r| r.row.figure.median).collect::<Vec<_>>();
    for (i, (name, colour, rates)) in [("bound", "#c33", bounds), ("measured", "#36c", rates)].into_iter().enumerate() {
        let points = report.rows.iter().zip(&rates).map(|(r, rate)| (x(r.share), y(*rate)));
        let line: Vec<String> = points.clone().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        put(format_args!("<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\"/>", line.join(" ")));
        for (x, y) in points {
            put(format_args!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>"));
        }
        let (left, top) = (LEFT + 10.0, TOP + 16.0 * (i + 1) as f64);
        put(format_args!("<text x=\"{left}\" y=\"{top}\" fill=\"{colour}\">{name}, tokens a second</text>"));
    }
    svg + "</svg>\n"
}
