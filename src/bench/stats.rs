//! What repeated measurements say together.

use serde::{Deserialize, Serialize};

/// Repeated measurements of one thing, by their middle and their spread.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    pub samples: usize,
    pub mean: f64,
    /// Standard deviation of a sample (over n - 1); 0 of one.
    pub deviation: f64,
    pub median: f64,
    /// The first and third quartile, between which half of the samples lie.
    pub low: f64,
    pub high: f64,
}

/// Interquartile range of a normal distribution of deviation 1.
const NORMAL_QUARTILES: f64 = 1.349;

impl Summary {
    /// Of at least one sample.
    pub fn of(samples: &[f64]) -> Summary {
        assert!(!samples.is_empty(), "a summary of nothing");
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let n = sorted.len() as f64;
        let mean = sorted.iter().sum::<f64>() / n;
        let squares: f64 = sorted.iter().map(|x| (x - mean).powi(2)).sum();
        Summary {
            samples: sorted.len(),
            mean,
            deviation: if sorted.len() > 1 { (squares / (n - 1.0)).sqrt() } else { 0.0 },
            median: quantile(&sorted, 0.5),
            low: quantile(&sorted, 0.25),
            high: quantile(&sorted, 0.75),
        }
    }

    /// The spread over the median, as outliers leave it: the deviation of the normal distribution with these quartiles.
    pub fn relative_spread(&self) -> f64 {
        (self.high - self.low) / NORMAL_QUARTILES / self.median
    }
}

/// Between the two nearest of sorted samples, linearly.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let at = q * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    below + (above - below) * at.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_of_few_numbers() {
        let s = Summary::of(&[4.0, 1.0, 3.0, 2.0, 5.0]);
        assert_eq!((s.samples, s.mean, s.median, s.low, s.high), (5, 3.0, 3.0, 2.0, 4.0));
        assert!((s.deviation - 2.5f64.sqrt()).abs() < 1e-12);
        let one = Summary::of(&[7.0]);
        assert_eq!((one.mean, one.deviation, one.median, one.relative_spread()), (7.0, 0.0, 7.0, 0.0));
        assert_eq!(Summary::of(&[1.0, 2.0]).median, 1.5);
    }

    #[test]
    fn an_outlier_moves_the_mean_and_not_the_median() {
        let s = Summary::of(&[1.0, 1.0, 1.0, 1.0, 101.0]);
        assert_eq!((s.median, s.relative_spread()), (1.0, 0.0));
        assert_eq!(s.mean, 21.0);
    }
}
