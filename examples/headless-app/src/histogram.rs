//! Frame times by the millisecond.

use std::fmt::Write;

/// The last bin holds what is longer.
const BINS: usize = 34;

fn bins(times: &[f64]) -> [usize; BINS] {
    let mut bins = [0; BINS];
    times.iter().for_each(|ms| bins[(*ms as usize).min(BINS - 1)] += 1);
    bins
}

pub fn percentile(times: &[f64], percent: usize) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[(sorted.len() - 1) * percent / 100]
}

fn label(bin: usize) -> String {
    if bin + 1 == BINS { format!("{bin}+") } else { bin.to_string() }
}

/// One line a millisecond: frames without and with inference.
pub fn text(without: &[f64], with: &[f64]) -> String {
    let mut text = String::from("  ms  without  with\n");
    for (bin, (a, b)) in bins(without).into_iter().zip(bins(with)).enumerate().filter(|(_, (a, b))| a + b > 0) {
        let bar = "#".repeat((b * 50).div_ceil(with.len()));
        writeln!(text, "{:>4} {a:8} {b:5}  {bar}", label(bin)).expect("a string takes all");
    }
    text
}

/// The same as a picture.
pub fn svg(title: &str, without: &[f64], with: &[f64]) -> String {
    let (left, bottom, bar, height) = (40.0, 220.0, 9.0, 170.0);
    let width = left + 2.0 * bar * BINS as f64 + 20.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} 260\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n<text x=\"{left}\" y=\"20\" font-size=\"14\">{title}</text>\n\
         <text x=\"{left}\" y=\"38\" fill=\"#888\">without inference</text>\n\
         <text x=\"160\" y=\"38\" fill=\"#36c\">with inference</text>\n\
         <text x=\"{left}\" y=\"252\">milliseconds from the tick to the end of the frame's GPU work</text>\n"
    );
    for (at, colour, times) in [(0.0, "#bbb", without), (bar, "#36c", with)] {
        for (bin, count) in bins(times).into_iter().enumerate() {
            let (x, tall) = (left + 2.0 * bar * bin as f64 + at, height * count as f64 / times.len().max(1) as f64);
            let y = bottom - tall;
            writeln!(svg, "<rect x=\"{x}\" y=\"{y:.1}\" width=\"{bar}\" height=\"{tall:.1}\" fill=\"{colour}\"/>")
                .expect("a string takes all");
        }
    }
    for bin in (0..BINS).step_by(4) {
        let x = left + 2.0 * bar * bin as f64;
        writeln!(svg, "<text x=\"{x}\" y=\"{}\">{}</text>", bottom + 14.0, label(bin)).expect("a string takes all");
    }
    svg + "</svg>\n"
}
