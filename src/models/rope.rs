//! Rotary position embedding: the frequencies of a model and the table of their cosines and sines.

use super::{Error, Keys, Result};
use std::f64::consts::PI;
use std::ops::Range;

/// The frequencies of one kind of layer.
#[derive(Clone, Debug)]
pub struct Rope {
    /// Radians a position, one for each pair.
    pub frequencies: Vec<f64>,
    /// Factor of all cosines and sines (YaRN's attention scaling).
    pub magnitude: f64,
}

impl Rope {
    /// base^(-2i/dim) for dim / 2 pairs, scaled as `rope.scaling.*` says: none, linear or yarn. `factors` divide
    /// frequencies one by one: the tensor `rope_freqs.weight`, in which Llama 3's scaling arrives.
    pub fn new(keys: &Keys, dim: usize, factors: Option<&[f32]>) -> Result<Rope> {
        let base = f64::from(keys.positive_or("rope.freq_base", 10_000.0)?);
        let mut rope = Rope::unscaled(base, dim);
        for (f, factor) in rope.frequencies.iter_mut().zip(factors.unwrap_or(&[])) {
            if !(factor.is_finite() && *factor > 0.0) {
                return Err(Error::RopeFactor { file: keys.file().into(), factor: *factor });
            }
            *f /= f64::from(*factor);
        }
        match keys.word("rope.scaling.type")?.unwrap_or("none") {
            "none" => {}
            "linear" => {
                let factor = f64::from(keys.positive_or("rope.scaling.factor", 1.0)?);
                rope.frequencies.iter_mut().for_each(|f| *f /= factor);
            }
            "yarn" => rope.yarn(keys, base, dim)?,
            other => {
                return Err(keys.error("rope.scaling.type", other, "halogen knows none, linear and yarn"));
            }
        }
        Ok(rope)
    }

    /// base^(-2i/dim) for dim / 2 pairs.
    pub fn unscaled(base: f64, dim: usize) -> Rope {
        Rope { frequencies: (0..dim / 2).map(|i| base.powf(-2.0 * i as f64 / dim as f64)).collect(), magnitude: 1.0 }
    }

    /// YaRN (arXiv 2309.00071): pairs that turn fast keep their frequency, slow ones are interpolated, with a ramp
    /// between the pairs that turn beta_fast and beta_slow times over the original context.
    fn yarn(&mut self, keys: &Keys, base: f64, dim: usize) -> Result<()> {
        let number = |key: &str, default: f32| keys.positive_or(key, default).map(f64::from);
        let factor = number("rope.scaling.factor", 1.0)?;
        let trained = keys.size("context_length")?;
        let original = keys.size_or("rope.scaling.original_context_length", trained)? as f64;
        let (fast, slow) = (number("rope.scaling.yarn_beta_fast", 32.0)?, number("rope.scaling.yarn_beta_slow", 1.0)?);
        let pair_of = |turns: f64| dim as f64 * (original / (turns * 2.0 * PI)).ln() / (2.0 * base.ln());
        let low = pair_of(fast).floor().max(0.0);
        let high = pair_of(slow).ceil().min(dim as f64 - 1.0);
        for (i, f) in self.frequencies.iter_mut().enumerate() {
            let slowness = ((i as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
            *f = *f / factor * slowness + *f * (1.0 - slowness);
        }
        self.magnitude = number("rope.scaling.attn_factor", 1.0)? * (1.0 + 0.1 * factor.ln());
        Ok(())
    }

    /// Cosine and sine for `positions`, f32 [positions, pairs, 2]. Angles are taken in f64: WGSL bounds its sin and cos
    /// only within 2^-11 on [-pi, pi], and an f32 angle at position 2^20 is off by 0.06.
    pub fn table(&self, positions: Range<usize>) -> Vec<[f32; 2]> {
        let mut table = Vec::with_capacity(positions.len() * self.frequencies.len());
        for position in positions {
            for f in &self.frequencies {
                let (sin, cos) = (position as f64 * f).sin_cos();
                table.push([(cos * self.magnitude) as f32, (sin * self.magnitude) as f32]);
            }
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::Rope;

    #[test]
    fn the_table_is_exact_at_the_millionth_position() {
        let rope = Rope { frequencies: vec![1.0, 0.1, 1e-3], magnitude: 1.0 };
        let position = 1_048_575;
        let table = rope.table(position..position + 1);
        // Each angle reduced to one turn by hand, in integers of 1e-3 radians where that is exact enough.
        for (f, [cos, sin]) in rope.frequencies.iter().zip(table) {
            let angle = position as f64 * f;
            let turns = (angle / std::f64::consts::TAU).floor();
            let rest = angle - turns * std::f64::consts::TAU;
            assert!((f64::from(cos) - rest.cos()).abs() < 1e-6 && (f64::from(sin) - rest.sin()).abs() < 1e-6);
            assert!((f64::from(cos).powi(2) + f64::from(sin).powi(2) - 1.0).abs() < 1e-6);
        }
    }
}
