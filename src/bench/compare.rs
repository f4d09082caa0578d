//! Two reports held against each other.

use super::{Row, Summary};

/// What became of one figure.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Change {
    pub name: String,
    pub unit: String,
    pub before: f64,
    pub after: f64,
    /// How many times as fast as before: above 1 is better, whatever the unit.
    pub speed: f64,
    /// Deviation of `speed` by the spread of both reports.
    pub spread: f64,
    pub verdict: Verdict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Faster,
    Slower,
    /// The spread covers the change.
    NoDifference,
    /// Fewer than three samples on a side: their spread says nothing.
    TooFewSamples,
}

/// Rows of both reports by name, and the names that only one of them has.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Comparison {
    pub changes: Vec<Change>,
    pub only_before: Vec<String>,
    pub only_after: Vec<String>,
}

const LEAST_SAMPLES: usize = 3;

/// Compares the rows that two reports share.
pub fn compare(before: &[Row], after: &[Row]) -> Comparison {
    let find = |rows: &[Row], name: &str| rows.iter().find(|r| r.name == name).cloned();
    let only = |rows: &[Row], others: &[Row]| -> Vec<String> {
        rows.iter().filter(|r| find(others, &r.name).is_none()).map(|r| r.name.clone()).collect()
    };
    let changes = before.iter().filter_map(|b| Some(change(b, &find(after, &b.name)?)));
    Comparison { changes: changes.collect(), only_before: only(before, after), only_after: only(after, before) }
}

fn change(before: &Row, after: &Row) -> Change {
    let (b, a): (&Summary, &Summary) = (&before.figure, &after.figure);
    let speed = if before.lower_is_better() { b.median / a.median } else { a.median / b.median };
    let spread = speed * b.relative_spread().hypot(a.relative_spread());
    let verdict = match speed {
        _ if b.samples.min(a.samples) < LEAST_SAMPLES => Verdict::TooFewSamples,
        s if (s - 1.0).abs() <= spread => Verdict::NoDifference,
        s if s > 1.0 => Verdict::Faster,
        s if s < 1.0 => Verdict::Slower,
        _ => Verdict::NoDifference,
    };
    let (name, unit) = (before.name.clone(), before.unit.clone());
    Change { name, unit, before: b.median, after: a.median, speed, spread, verdict }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, unit: &str, samples: &[f64]) -> Row {
        Row { name: name.into(), unit: unit.into(), figure: Summary::of(samples) }
    }

    fn verdict(unit: &str, before: &[f64], after: &[f64]) -> (Verdict, f64) {
        let c = compare(&[row("x", unit, before)], &[row("x", unit, after)]);
        (c.changes[0].verdict, c.changes[0].speed)
    }

    #[test]
    fn the_spread_decides() {
        assert_eq!(verdict("t/s", &[10.0, 10.1, 9.9], &[20.0, 20.1, 19.9]), (Verdict::Faster, 2.0));
        assert_eq!(verdict("s", &[10.0, 10.1, 9.9], &[20.0, 20.1, 19.9]), (Verdict::Slower, 0.5));
        assert_eq!(verdict("s", &[8.0, 10.0, 12.0], &[9.0, 11.0, 13.0]).0, Verdict::NoDifference);
        assert_eq!(verdict("s", &[10.0, 10.0, 10.0], &[10.0, 10.0, 10.0]).0, Verdict::NoDifference);
        assert_eq!(verdict("s", &[10.0, 10.0], &[20.0, 20.0]).0, Verdict::TooFewSamples);
    }

    #[test]
    fn rows_of_one_side_are_named() {
        let three = [1.0, 1.0, 1.0];
        let c =
            compare(&[row("a", "s", &three), row("b", "s", &three)], &[row("b", "s", &three), row("c", "s", &three)]);
        assert_eq!((c.changes.len(), c.only_before, c.only_after), (1, vec!["a".to_string()], vec!["c".to_string()]));
    }
}
