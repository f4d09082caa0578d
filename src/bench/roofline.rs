//! A roofline (Williams, Waterman, Patterson 2009) as SVG: operations a second over operations a byte, both on
//! logarithmic scales, the measured limits as lines (a level for each arithmetic), every kernel a numbered point with its
//! name beside the plot.

use std::fmt::Write;

/// The operations a second of an arithmetic.
#[derive(Clone, Debug)]
pub struct Ceiling {
    pub label: String,
    pub flops_per_second: f64,
}

/// A kernel.
#[derive(Clone, Debug)]
pub struct Point {
    pub label: String,
    /// Operations a byte.
    pub intensity: f64,
    pub flops_per_second: f64,
    /// Of the limit above it.
    pub fraction: f64,
}

const LEFT: f64 = 74.0;
const TOP: f64 = 56.0;
const WIDTH: f64 = 600.0;
const LEAST_HEIGHT: f64 = 420.0;
/// Of the list of names.
const LINE: f64 = 18.0;
const LEAST_LEGEND: f64 = 400.0;
/// Of most characters, at the size that the legend is set in.
const CHARACTER: f64 = 7.0;

/// A logarithmic axis over whole decades, from `least` to `most`, on `length` pixels.
struct Axis {
    from: f64,
    decades: f64,
    length: f64,
}

impl Axis {
    fn new(least: f64, most: f64, length: f64) -> Axis {
        let from = least.log10().floor();
        Axis { from, decades: (most.log10().ceil() - from).max(1.0), length }
    }

    /// Pixels from the axis' start.
    fn at(&self, value: f64) -> f64 {
        (value.log10() - self.from) / self.decades * self.length
    }

    fn ends(&self) -> (f64, f64) {
        (10f64.powf(self.from), 10f64.powf(self.from + self.decades))
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        let from = self.from;
        (0..=self.decades as i32).map(move |i| 10f64.powf(from + f64::from(i)))
    }
}

/// Draws kernels under a device's limits: its rate of reading, in bytes a second, and at least one ceiling.
pub fn roofline(title: &str, reads: f64, ceilings: &[Ceiling], points: &[Point]) -> String {
    let highest = ceilings.iter().map(|c| c.flops_per_second).fold(f64::MIN, f64::max);
    let ridge = highest / reads;
    let span = |of: fn(&Point) -> f64, others: [f64; 2]| {
        let all = || points.iter().map(of).chain(others);
        (all().fold(f64::MAX, f64::min), all().fold(f64::MIN, f64::max))
    };
    let height = LEAST_HEIGHT.max(points.len() as f64 * LINE);
    let (least, most) = span(|p| p.intensity, [ridge / 2.0, ridge * 5.0]);
    let x = Axis::new(least, most, WIDTH);
    let (least, most) = span(|p| p.flops_per_second, [highest * 1.5, highest]);
    let y = Axis::new(least, most, height);
    let longest = points.iter().map(|p| legend(p).chars().count()).max().unwrap_or(0) as f64;
    let mut svg = head(title, LEFT + WIDTH + LEAST_LEGEND.max(50.0 + CHARACTER * longest), height);
    grid(&mut svg, &x, &y);
    roof(&mut svg, &x, &y, reads, ceilings);
    kernels(&mut svg, &x, &y, points);
    svg + "</svg>\n"
}

fn put(svg: &mut String, line: std::fmt::Arguments) {
    writeln!(svg, "{line}").expect("a string takes all");
}

fn head(title: &str, width: f64, height: f64) -> String {
    let height = TOP + height + 60.0;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"{LEFT}\" y=\"28\" font-size=\"16\">{}</text>\n",
        escape(title)
    )
}

fn grid(svg: &mut String, x: &Axis, y: &Axis) {
    let bottom = TOP + y.length;
    for tick in x.ticks() {
        let at = LEFT + x.at(tick);
        put(svg, format_args!("<path d=\"M{at:.1} {TOP}V{bottom}\" stroke=\"#ddd\"/>"));
        put(svg, format_args!("<text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{tick}</text>", bottom + 18.0));
    }
    for tick in y.ticks() {
        let at = bottom - y.at(tick);
        put(svg, format_args!("<path d=\"M{LEFT} {at:.1}h{}\" stroke=\"#ddd\"/>", x.length));
        let (text, left) = (si(tick), LEFT - 8.0);
        put(svg, format_args!("<text x=\"{left}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>", at + 4.0));
    }
    let middle = LEFT + x.length / 2.0;
    put(svg, format_args!("<text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">FLOP a byte</text>", bottom + 42.0));
    let middle = TOP + y.length / 2.0;
    let turned = format!("x=\"18\" y=\"{middle}\" transform=\"rotate(-90 18 {middle})\"");
    put(svg, format_args!("<text {turned} text-anchor=\"middle\">FLOP a second</text>"));
}

/// The slope of the stream rate up to the highest ridge, and from each ridge on the level of its arithmetic.
fn roof(svg: &mut String, x: &Axis, y: &Axis, reads: f64, ceilings: &[Ceiling]) {
    let bottom = TOP + y.length;
    // Where the slope enters the plot: at its left side or at its bottom.
    let start = x.ends().0.max(y.ends().0 / reads);
    let point = |i: f64, f: f64| (LEFT + x.at(i), bottom - y.at(f));
    let (ax, ay) = point(start, start * reads);
    let end = LEFT + x.length;
    let mut levels: Vec<&Ceiling> = ceilings.iter().collect();
    levels.sort_by(|a, b| a.flops_per_second.total_cmp(&b.flops_per_second));
    let mut last = f64::MAX;
    for Ceiling { label, flops_per_second: rate } in &levels {
        let (bx, by) = point(rate / reads, *rate);
        put(
            svg,
            format_args!(
                "<path d=\"M{ax:.1} {ay:.1}L{bx:.1} {by:.1}H{end:.1}\" fill=\"none\" stroke=\"#333\" stroke-width=\"1.5\"/>"
            ),
        );
        // Names of near levels stand one above the other.
        last = (by - 6.0).min(last - 14.0);
        let text = format!("{label} {}/s", si(*rate));
        put(svg, format_args!("<text x=\"{:.1}\" y=\"{last:.1}\" text-anchor=\"end\">{text}</text>", end - 6.0));
    }
    let highest = levels[levels.len() - 1].flops_per_second;
    let (bx, by) = point(highest / reads, highest);
    let angle = (by - ay).atan2(bx - ax).to_degrees();
    // Kernels gather near the upper end.
    let (mx, my) = (0.75 * ax + 0.25 * bx, 0.75 * ay + 0.25 * by);
    let text = format!("reads {}B/s", si(reads));
    put(
        svg,
        format_args!(
            "<text transform=\"translate({mx:.1} {my:.1}) rotate({angle:.1})\" dy=\"-8\" text-anchor=\"middle\">{text}</text>"
        ),
    );
}

/// Points with their numbers, and the list of names. Numbers of near points are moved apart.
fn kernels(svg: &mut String, x: &Axis, y: &Axis, points: &[Point]) {
    let bottom = TOP + y.length;
    let mut taken: Vec<(f64, f64)> = points.iter().map(|p| place(x, y, p)).collect();
    for (i, p) in points.iter().enumerate() {
        let (number, (px, py)) = (i + 1, place(x, y, p));
        let (tx, ty) = free_place((px, py), &taken);
        taken.push((tx, ty));
        put(svg, format_args!("<circle cx=\"{px:.1}\" cy=\"{py:.1}\" r=\"4\" fill=\"#c33\"/>"));
        if (tx - px).hypot(ty - py) > 20.0 {
            put(
                svg,
                format_args!("<path d=\"M{px:.1} {py:.1}L{tx:.1} {ty:.1}\" stroke=\"#c33\" stroke-width=\"0.6\"/>"),
            );
        }
        let held = format!("x=\"{tx:.1}\" y=\"{:.1}\" text-anchor=\"middle\"", ty + 4.0);
        // The halo is a text of its own: not every viewer knows `paint-order`.
        put(svg, format_args!("<text {held} stroke=\"#fff\" stroke-width=\"3\">{number}</text>"));
        put(svg, format_args!("<text {held}>{number}</text>"));
        let (left, at) = (LEFT + x.length + 34.0, bottom - y.length + 12.0 + i as f64 * LINE);
        let label = escape(&legend(p));
        put(svg, format_args!("<text x=\"{left}\" y=\"{at}\" text-anchor=\"end\">{number}</text>"));
        let left = left + 8.0;
        put(svg, format_args!("<text x=\"{left}\" y=\"{at}\">{label}</text>"));
    }
}

fn legend(p: &Point) -> String {
    format!("{} ({} % of limit)", p.label, (p.fraction * 100.0).round())
}

fn place(x: &Axis, y: &Axis, p: &Point) -> (f64, f64) {
    (LEFT + x.at(p.intensity), TOP + y.length - y.at(p.flops_per_second))
}

/// The nearest place around a point that is 15 pixels from all others.
fn free_place((px, py): (f64, f64), taken: &[(f64, f64)]) -> (f64, f64) {
    let around = |i: u32| {
        let (ring, turn) = (f64::from(i / 12), f64::from(i % 12) / 12.0 * std::f64::consts::TAU);
        let radius = 15.0 + 12.0 * ring;
        (px + radius * turn.cos(), py - radius * turn.sin())
    };
    let free = |(x, y): &(f64, f64)| taken.iter().all(|(tx, ty)| (tx - x).hypot(ty - y) >= 14.5);
    (0..96).map(around).find(free).unwrap_or((px + 15.0, py))
}

/// With the prefix that leaves the fewest digits: `100 G`, `7.8 G`.
fn si(value: f64) -> String {
    let prefixes = ["", "k", "M", "G", "T", "P"];
    let at = ((value.log10() / 3.0 + 1e-9).floor().max(0.0) as usize).min(prefixes.len() - 1);
    let scaled = value / 1000f64.powi(at as i32);
    let digits = if scaled >= 10.0 || (scaled - scaled.round()).abs() < 1e-9 { 0 } else { 1 };
    format!("{scaled:.digits$} {}", prefixes[at])
}

pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decades_are_equally_long() {
        let axis = Axis::new(0.3, 250.0, 400.0);
        assert_eq!(axis.ends(), (0.1, 1000.0));
        let ticks: Vec<f64> = axis.ticks().map(|t| axis.at(t).round()).collect();
        assert_eq!(ticks, [0.0, 100.0, 200.0, 300.0, 400.0]);
        assert!((axis.at(10f64.sqrt()) - 150.0).abs() < 1e-9);
    }

    #[test]
    fn points_lie_under_the_roof_and_apart() {
        let ceiling = |label: &str, rate| Ceiling { label: label.into(), flops_per_second: rate };
        let ceilings = [ceiling("f32 FLOP", 1e11), ceiling("f16 FLOP", 1.1e11)];
        let point = |label: &str| Point { label: label.into(), intensity: 3.5, flops_per_second: 7e9, fraction: 0.2 };
        let svg = roofline("a < b", 1e10, &ceilings, &[point("one"), point("two")]);
        assert!(svg.contains("a &lt; b") && svg.contains("one (20 % of limit)"));
        assert!(svg.contains("reads 10 GB/s") && svg.contains("f32 FLOP 100 G/s") && svg.contains("f16 FLOP 110 G/s"));
        let first = free_place((100.0, 100.0), &[(100.0, 100.0)]);
        let second = free_place((100.0, 100.0), &[(100.0, 100.0), first]);
        assert!((first.0 - second.0).hypot(first.1 - second.1) >= 14.5);
    }
}
