//! How often the routers of a made-up model choose which experts.
//!
//! A router's logit is a random product with the normalised input, about normal with deviation 1, and a bias of the expert, which
//! it reads off channels that are the same for all tokens (`synthetic.rs`). The biases are those by which the best of `biases +
//! noise` are chosen as often as asked; they are found by simulation, with noise from a counter, so they are the same everywhere.
//! Where a token's experts come from few groups of them (DeepSeek-V3), those that are used most share groups: spread over all
//! groups they could not be chosen together.

use super::blocks::word;
use crate::memory::Routing;
use std::sync::OnceLock;

/// The usage of experts that is asked of a made-up model.
#[derive(Debug)]
pub struct Usage {
    pub routing: Routing,
    pub experts: usize,
    /// Of each token.
    pub used: usize,
    /// Groups of experts side by side, and how many of them a token's experts are from: those whose two best score most together.
    groups: (usize, usize),
    seed: u64,
    biases: OnceLock<Vec<f32>>,
}

/// Tokens of a round of the simulation, and rounds; the first of them take large steps.
const TOKENS: usize = 2048;
const ROUNDS: usize = 32;
const QUICK: f64 = 6.0;
/// How often an expert is chosen at least and at most: logits would be infinite otherwise.
const LEAST: f64 = 1e-4;

/// The log of the odds. Times 0.6 it is about the quantile of a normal distribution.
fn log_odds(p: f64) -> f64 {
    let p = p.clamp(LEAST, 1.0 - LEAST);
    (p / (1.0 - p)).ln()
}

/// About a normal distribution of mean 0 and deviation 1: the sum of the four quarters of a word.
pub fn normal(seed: u64, index: u64) -> f32 {
    let word = word(seed, index);
    let sum: u64 = (0..4).map(|i| word >> (16 * i) & 0xffff).sum();
    (sum as f32 / 65_536.0 - 2.0) * 3f32.sqrt()
}

/// The `used` largest of some values, the largest first.
pub fn best(values: &[f32], used: usize) -> Vec<u32> {
    let mut order: Vec<u32> = (0..values.len() as u32).collect();
    let larger = |a: &u32, b: &u32| values[*b as usize].total_cmp(&values[*a as usize]).then(a.cmp(b));
    if used < order.len() {
        order.select_nth_unstable_by(used, larger);
        order.truncate(used);
    }
    order.sort_unstable_by(larger);
    order
}

/// The numbers below `count`, in an order that the seed says.
fn shuffled(count: usize, seed: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    for last in (1..count).rev() {
        order.swap(last, (word(seed, last as u64) % (last as u64 + 1)) as usize);
    }
    order
}

impl Usage {
    pub fn new(routing: Routing, experts: usize, used: usize, seed: u64) -> Usage {
        Usage { routing, experts, used, groups: (1, 1), seed, biases: OnceLock::new() }
    }

    /// The same where experts are in so many groups, of which a token uses so many.
    #[must_use]
    pub fn in_groups(self, groups: usize, used: usize) -> Usage {
        Usage { groups: (groups, used), ..self }
    }

    /// The rank of each expert of a layer; the most used is 0. A group has ranks that follow each other.
    pub fn ranks(&self, layer: u64) -> Vec<usize> {
        let seed = word(self.seed ^ 0x7261_6e6b, layer);
        let (groups, _) = self.groups;
        let size = self.experts / groups;
        let place = shuffled(groups, !seed);
        let of_group = |group: usize| {
            let first = place[group] * size;
            shuffled(size, seed.wrapping_add(group as u64)).into_iter().map(move |rank| first + rank)
        };
        (0..groups).flat_map(of_group).collect()
    }

    /// The ranks that a token's logits, one of each rank, choose.
    fn chosen(&self, mut logits: Vec<f32>) -> Vec<u32> {
        let (groups, used) = self.groups;
        if used < groups {
            let size = self.experts / groups;
            let score = |group: &[f32]| best(group, 2).iter().map(|e| 1.0 / (1.0 + (-group[*e as usize]).exp())).sum();
            let scores: Vec<f32> = logits.chunks(size).map(score).collect();
            let stay = best(&scores, used);
            for (group, logits) in logits.chunks_mut(size).enumerate() {
                if !stay.contains(&(group as u32)) {
                    logits.fill(f32::MIN);
                }
            }
        }
        best(&logits, self.used)
    }

    /// Experts of the tenth that is used most.
    pub fn tenth(&self) -> usize {
        self.experts.div_ceil(10)
    }

    /// The share of uses that is to fall on the tenth that is used most.
    pub fn asked(&self) -> f64 {
        let usage = self.routing.usage(self.experts as u64, self.used as u64);
        usage[..self.tenth()].iter().sum::<f64>() / self.used as f64
    }

    /// What is added to the logit of the expert of a rank, in deviations of the rest.
    pub fn biases(&self) -> &[f32] {
        self.biases.get_or_init(|| self.calibrate())
    }

    fn calibrate(&self) -> Vec<f32> {
        let wanted = self.routing.usage(self.experts as u64, self.used as u64);
        let mut biases: Vec<f32> = wanted.iter().map(|p| 0.6 * log_odds(*p) as f32).collect();
        for round in 0..ROUNDS {
            let mut chosen = vec![0u32; self.experts];
            for token in 0..TOKENS {
                let at = ((round * TOKENS + token) * self.experts) as u64;
                let logits: Vec<f32> = biases.iter().zip(at..).map(|(bias, i)| bias + normal(1, i)).collect();
                self.chosen(logits).into_iter().for_each(|e| chosen[e as usize] += 1);
            }
            // Ever smaller steps, so that the chance of single rounds averages out.
            let step = 0.4 * (QUICK / (round + 1) as f64).min(1.0);
            for ((bias, count), wanted) in biases.iter_mut().zip(chosen).zip(&wanted) {
                *bias += (step * (log_odds(*wanted) - log_odds(f64::from(count) / TOKENS as f64))) as f32;
            }
        }
        biases
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_come_out_as_often_as_asked() {
        let one = (1, 1);
        let cases = [(128, 8, 0.7, one), (128, 8, 1.2, one), (16, 1, 1.0, one), (32, 4, 0.5, one), (60, 6, 0.0, one)];
        let grouped = [(256, 8, 0.6, (8, 4)), (256, 8, 1.2, (8, 4)), (40, 4, 1.0, (4, 2)), (64, 8, 0.0, (8, 4))];
        for (experts, used, s, (groups, groups_used)) in cases.into_iter().chain(grouped) {
            let usage = Usage::new(Routing::Zipf(s), experts, used, 3).in_groups(groups, groups_used);
            let (wanted, mut chosen) = (usage.routing.usage(experts as u64, used as u64), vec![0f64; experts]);
            const DRAWS: usize = 8000;
            for token in 0..DRAWS {
                // Other noise than what the biases were found with.
                let logit = |e: usize| normal(9, (token * experts + e) as u64) + usage.biases()[e];
                let logits: Vec<f32> = (0..experts).map(logit).collect();
                usage.chosen(logits).into_iter().for_each(|e| chosen[e as usize] += 1.0 / DRAWS as f64);
            }
            for (rank, (found, wanted)) in chosen.iter().zip(&wanted).enumerate() {
                let off = (found - wanted).abs();
                assert!(off < 0.01 + 0.15 * wanted, "{experts} {used} {s}: rank {rank}: {found}, wanted {wanted}");
            }
        }
    }

    #[test]
    fn ranks_are_a_permutation_of_each_layer() {
        let usage = Usage::new(Routing::Zipf(1.0), 40, 4, 3);
        let (mut first, second) = (usage.ranks(0), usage.ranks(1));
        assert_ne!(first, second);
        first.sort_unstable();
        assert!(first.into_iter().eq(0..40));
        let grouped = Usage::new(Routing::Zipf(1.0), 40, 4, 3).in_groups(4, 2).ranks(0);
        assert!(grouped.chunks(10).all(|group| group.iter().all(|rank| rank / 10 == group[0] / 10)));
        assert!((Usage::new(Routing::Uniform, 40, 4, 3).asked() - 0.1).abs() < 1e-12);
    }
}
