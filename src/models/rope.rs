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
        Rope::of_base(keys, keys.positive_or("rope.freq_base", 10_000.0)?, dim, factors)
    }

    /// As [`Rope::new`], of a base that another key gives.
    pub fn of_base(keys: &Keys, base: f32, dim: usize, factors: Option<&[f32]>) -> Result<Rope> {
        let base = f64::from(base);
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

    /// Cosine and sine of position * base^(-2 pair / 128), from decimal arithmetic with 60 digits: Machin's pi, the angle
    /// reduced by whole turns, then the series.
    const EXACT: [(f64, usize, usize, f64, f64); 13] = [
        (1e4, 1_048_575, 0, 0.788042239528927, -0.615621173058751),
        (1e4, 1_048_575, 1, 0.121168248860223, 0.992631983903474),
        (1e4, 1_048_575, 17, -0.168419756043039, -0.985715367524725),
        (1e4, 1_048_575, 40, -0.065700993206137, -0.997839355553652),
        (1e4, 1_048_575, 63, -0.135813769454661, 0.990734384195136),
        (1e4, 1_048_574, 0, -0.092246315623367, -0.995736218711519),
        (1e4, 1_048_574, 1, 0.834613660209759, 0.550835763355347),
        (1e4, 1_048_574, 17, -0.253041455445845, -0.967455436609795),
        (1e4, 1_048_574, 40, -0.068856104544876, -0.997626601924240),
        (1e4, 1_048_574, 63, -0.135699360327515, 0.990750061118698),
        (5e6, 1_048_575, 1, 0.927844036034832, -0.372968423321055),
        (5e6, 1_048_575, 31, 0.986976079354676, -0.160867084208273),
        (5e6, 1_048_575, 63, 0.964600857798467, 0.263714211096901),
    ];

    #[test]
    fn the_table_is_exact_up_to_the_last_of_a_million_positions() {
        for (base, position, pair, cos, sin) in EXACT {
            let rope = Rope::unscaled(base, 128);
            let [c, s] = rope.table(position..position + 1)[pair];
            // Half an f32 step below 1 is 2^-25; the f64 angle is within 1e-9.
            let off = (f64::from(c) - cos).abs().max((f64::from(s) - sin).abs());
            assert!(off < 3.2e-8, "base {base}, position {position}, pair {pair}: [{c}, {s}] is off by {off:e}");
        }
    }
}
