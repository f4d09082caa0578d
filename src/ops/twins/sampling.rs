//! How a token is drawn from logits.

/// How one token is drawn. Zero turns off `top_k` and `min_p`, one `top_p` and `repeat_penalty`.
#[derive(Clone, Copy, Debug)]
pub struct Sampling {
    /// 0: the likeliest token.
    pub temperature: f32,
    pub top_k: u32,
    pub top_p: f32,
    pub min_p: f32,
    pub repeat_penalty: f32,
    /// Tokens that the penalty looks back.
    pub repeat_last: usize,
}

/// The logits after the repetition penalty: those of tokens among the last of `history` are divided by it, or
/// multiplied if negative (arXiv 1909.05858, section 4.1, with the sign kept).
pub fn penalise(logits: &[f32], history: &[u32], s: &Sampling) -> Vec<f32> {
    let mut logits = logits.to_vec();
    let mut recent = history[history.len().saturating_sub(s.repeat_last)..].to_vec();
    recent.sort();
    recent.dedup();
    for token in recent {
        if let Some(l) = logits.get_mut(token as usize) {
            *l = if *l > 0.0 { *l / s.repeat_penalty } else { *l * s.repeat_penalty };
        }
    }
    logits
}

/// The tokens that stay, of penalised logits: the likeliest alone at temperature 0; else top-k, then top-p of what stays
/// of that, then min-p, in llama.cpp's order. A filter that ends within equal logits keeps them all. Rising indices.
pub fn candidates(logits: &[f32], s: &Sampling) -> Vec<u32> {
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    let at = |t: u32| logits[t as usize];
    order.sort_by(|a, b| at(*b).partial_cmp(&at(*a)).expect("no NaN")); // stable: ties to the lower index
    let high = at(order[0]);
    if s.temperature == 0.0 {
        return vec![order[0]];
    }
    let mut lowest = f32::NEG_INFINITY;
    if s.top_k > 0 && (s.top_k as usize) < order.len() {
        lowest = at(order[s.top_k as usize - 1]);
    }
    order.retain(|t| at(*t) >= lowest);
    if s.top_p < 1.0 {
        let weight = |t: u32| (f64::from(at(t)) - f64::from(high)).exp();
        let wanted = f64::from(s.top_p) * order.iter().map(|t| weight(*t)).sum::<f64>();
        let mut mass = 0.0;
        let last = order.iter().find(|t| {
            mass += weight(**t);
            mass >= wanted
        });
        lowest = last.map_or(lowest, |t| at(*t));
    }
    if s.min_p > 0.0 {
        lowest = lowest.max((f64::from(high) + f64::from(s.min_p).ln()) as f32);
    }
    order.retain(|t| at(*t) >= lowest.min(high));
    order.sort();
    order
}

/// The number in 0 .. 1 that draws the token at `position`: PCG-RXS-M-XS 32 (O'Neill 2014) of the two words.
pub fn random(seed: u32, position: u32) -> f32 {
    let step = |s: u32| {
        let s = s.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
        let s = ((s >> ((s >> 28) + 4)) ^ s).wrapping_mul(277_803_737);
        (s >> 22) ^ s
    };
    let s = step(seed ^ position.wrapping_mul(0x9e37_79b9));
    (step(s ^ position) >> 8) as f32 / 16_777_216.0
}

/// Each candidate with its probability at the asked temperature, in the order in which a draw walks them: slices of
/// 1,024 tokens, in each the likeliest first.
pub fn distribution(logits: &[f32], s: &Sampling) -> Vec<(u32, f64)> {
    let mut tokens = candidates(logits, s);
    let at = |t: u32| logits[t as usize];
    tokens.sort_by(|a, b| (a / 1024).cmp(&(b / 1024)).then(at(*b).total_cmp(&at(*a))));
    let high = tokens.iter().map(|t| at(*t)).fold(f32::NEG_INFINITY, f32::max);
    let weight = |t: u32| ((f64::from(at(t)) - f64::from(high)) / f64::from(s.temperature)).exp();
    let total: f64 = tokens.iter().map(|t| weight(*t)).sum();
    if s.temperature == 0.0 {
        return vec![(tokens[0], 1.0)];
    }
    tokens.into_iter().map(|t| (t, weight(t) / total)).collect()
}

/// The token that `u` in 0 .. 1 draws: the first whose running probability exceeds it.
pub fn draw(distribution: &[(u32, f64)], u: f32) -> u32 {
    let mut left = f64::from(u);
    let hit = distribution.iter().find(|(_, p)| {
        left -= p;
        left < 0.0
    });
    hit.unwrap_or(&distribution[distribution.len() - 1]).0
}
