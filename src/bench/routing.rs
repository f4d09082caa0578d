//! Which experts a model's routers choose.

use super::{Random, Result};
use crate::presets::Usage;
use crate::session::{Model, Session, SessionOptions};
use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::sync::Arc;

/// How unevenly the experts of a made-up model are used: the share of uses of the tenth that is to be used most.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Skew {
    pub routing: String,
    /// Experts of that tenth.
    pub experts: usize,
    pub asked: f64,
    /// On random tokens; `None` where not all experts are on one device.
    pub measured: Option<f64>,
}

/// Random tokens by which routers are measured.
const PROBE: usize = 64;

impl Skew {
    /// What is asked of the routers of `model`, and what they do.
    ///
    /// # Errors
    /// No memory for a session of a few tokens; a device that is lost.
    pub fn of(model: &Arc<Model>, options: &SessionOptions, usage: &Usage) -> Result<Skew> {
        let tokens = PROBE.min(model.shape().context);
        let measured = || -> Result<f64> {
            let options = SessionOptions { context: Some(tokens), ..options.clone() };
            let chosen = chosen_experts(&mut Session::new(model, &options)?, usage.experts, tokens)?;
            Ok(share_of_tenth(&chosen, usage))
        };
        let apart = model.weights_move() || model.devices().count() > 1;
        let measured = if apart { None } else { Some(measured()?) };
        Ok(Skew { routing: usage.routing.to_string(), experts: usage.tenth(), asked: usage.asked(), measured })
    }
}

impl Display for Skew {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        let Skew { routing, experts, asked, measured } = self;
        let percent = |share: f64| format!("{:.1} %", 100.0 * share);
        write!(
            f,
            "Routing {routing}: {} of uses asked of the {experts} most used experts of a layer, ",
            percent(*asked)
        )?;
        match measured {
            Some(share) => write!(f, "{} measured on {PROBE} random tokens.", percent(*share)),
            None => write!(f, "not measured where not all experts are on one device."),
        }
    }
}

/// How often each expert of each layer is chosen for `tokens` random tokens. The session's model has all experts on the device.
///
/// # Errors
/// Fewer positions than tokens; a device that is lost.
pub fn chosen_experts(session: &mut Session, experts: usize, tokens: usize) -> Result<BTreeMap<u32, Vec<u32>>> {
    /// Logits of so many tokens are computed at once, and thrown away.
    const CHUNK: usize = 16;
    let (mut random, vocabulary) = (Random::new(1), session.model().shape().vocabulary);
    let ids: Vec<u32> = (0..tokens).map(|_| random.below(vocabulary) as u32).collect();
    let (gpu, rows) = (session.model().gpu().clone(), session.chunk());
    let mut chosen = BTreeMap::<u32, Vec<u32>>::new();
    session.blocking_logits_watched(&ids, CHUNK, |position, dispatch| {
        let routed = dispatch.bindings.iter().find(|(name, _)| name == "routed").map(|(_, view)| view);
        if let Some(view) = routed {
            let ids: Vec<u32> = gpu.blocking_read(view)?;
            let ranks = ids.len() / rows;
            let counts = chosen.entry(dispatch.layer).or_insert_with(|| vec![0; experts]);
            for id in &ids[..ranks * CHUNK.min(rows).min(tokens - position)] {
                // Those beyond are shared by all tokens.
                counts.get_mut(*id as usize).into_iter().for_each(|count| *count += 1);
            }
        }
        Ok(false)
    })?;
    Ok(chosen)
}

/// The share of uses that falls on the tenth of each layer's experts that is to be used most.
pub fn share_of_tenth(chosen: &BTreeMap<u32, Vec<u32>>, usage: &Usage) -> f64 {
    let (mut tenth, mut all) = (0u64, 0u64);
    for (layer, counts) in chosen {
        for (rank, count) in usage.ranks(u64::from(*layer)).into_iter().zip(counts) {
            all += u64::from(*count);
            tenth += if rank < usage.tenth() { u64::from(*count) } else { 0 };
        }
    }
    tenth as f64 / all.max(1) as f64
}
