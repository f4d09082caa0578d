//! Numbers for people.

/// Bytes in the unit that leaves the fewest digits: `7.5 MB`, `21.4 GB`. Decimal units, as of disks and GB/s.
pub fn bytes(bytes: u64) -> String {
    scaled(bytes as f64, "B")
}

/// A rate in bytes a second: `46 GB/s`.
pub fn rate(bytes_per_second: f64) -> String {
    scaled(bytes_per_second, "B/s")
}

/// A number and the prefix of its unit: `1.25 T`.
pub fn si(value: f64) -> String {
    scaled(value, "")
}

/// A count of parameters: `235 B`, `1.57 T`.
pub fn billions(count: u64) -> String {
    scaled(count as f64, "").trim_end().replace('G', "B")
}

/// Bytes in binary units: `128 MiB`. Limits of devices are powers of two.
pub fn binary(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    // The largest unit of which there is one at least.
    let at = (1..units.len()).rev().find(|at| bytes >> (10 * at) > 0).unwrap_or(0);
    let value = bytes as f64 / (1u64 << (10 * at)) as f64;
    if value.fract() == 0.0 { format!("{value} {}", units[at]) } else { format!("{value:.1} {}", units[at]) }
}

fn scaled(value: f64, unit: &str) -> String {
    let prefixes = ["", "k", "M", "G", "T"];
    let mut scaled = value;
    let mut at = 0;
    // 999.95 would be printed as 1000.0.
    while scaled >= 999.5 && at + 1 < prefixes.len() {
        scaled /= 1000.0;
        at += 1;
    }
    match at {
        0 => format!("{value:.0} {unit}"),
        _ => format!("{} {}{unit}", short(scaled), prefixes[at]),
    }
}

/// A number with about three digits: `8.13`, `75.3`, `456`.
pub fn short(value: f64) -> String {
    match value {
        v if v >= 99.95 => format!("{v:.0}"),
        v if v >= 9.995 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

/// A time: `350 us`, `12.1 ms`, `3.25 s`.
pub fn seconds(seconds: f64) -> String {
    match seconds {
        s if s < 0.9995e-3 => format!("{} us", short(s * 1e6)),
        s if s < 0.9995 => format!("{} ms", short(s * 1e3)),
        s => format!("{} s", short(s)),
    }
}

/// A count with its digits in groups: `1,048,576`.
pub fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(7_497_312), "7.50 MB");
        assert_eq!(bytes(999_960_000), "1.00 GB");
        assert_eq!(binary(128 << 20), "128 MiB");
        assert_eq!(binary(3 << 29), "1.5 GiB");
        assert_eq!(rate(46.31e9), "46.3 GB/s");
        assert_eq!(seconds(0.000_35), "350 us");
        assert_eq!(seconds(0.0121), "12.1 ms");
        assert_eq!(count(1_048_576), "1,048,576");
        assert_eq!(count(999), "999");
        assert_eq!(billions(235_000_000_000), "235 B");
    }
}
