//! The plain decoder: layers of attention and a feed-forward on one residual stream, with one rope table. What an
//! architecture makes of it, in weights and variants, stands in the architecture's file.

use super::blocks::{Ends, GatedMlp, SelfAttention};
use super::mixture::SoftmaxExperts;
use super::{Architecture, Result, Rope, Shape};
use crate::gpu::View;
use crate::memory::KvCache;
use crate::ops::{Matrix, Norm, Step, Tensor};

pub struct Decoder<F> {
    pub shape: Shape,
    pub rope: Rope,
    pub ends: Ends,
    pub layers: Vec<(SelfAttention, F)>,
}

/// The second half of a layer.
pub trait FeedForward: wgpu::WasmNotSendSync {
    /// x += f(norm(x)).   x: [tokens, hidden]
    fn record(&self, step: &mut Step, x: &Tensor) -> Result<()>;
}

/// The second half of a layer in models of which some layers are dense.
pub enum DenseOr<M> {
    Dense(Box<GatedMlp>),
    Mixture(Box<M>),
}

impl<M: FeedForward> FeedForward for DenseOr<M> {
    fn record(&self, step: &mut Step, x: &Tensor) -> Result<()> {
        match self {
            DenseOr::Dense(mlp) => mlp.record(step, x),
            DenseOr::Mixture(experts) => experts.record(step, x),
        }
    }
}

impl FeedForward for GatedMlp {
    fn record(&self, step: &mut Step, x: &Tensor) -> Result<()> {
        GatedMlp::record(self, step, x)
    }
}

impl FeedForward for SoftmaxExperts {
    fn record(&self, step: &mut Step, x: &Tensor) -> Result<()> {
        SoftmaxExperts::record(self, step, x)
    }
}

impl<F: FeedForward> Architecture for Decoder<F> {
    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn ropes(&self) -> &[Rope] {
        std::slice::from_ref(&self.rope)
    }

    fn forward(&self, step: &mut Step, cache: &KvCache, ropes: &[View]) -> Result<Tensor> {
        let x = step.embed(&self.ends.embedding, 1.0)?; // [tokens, hidden]
        for (i, (attention, feed_forward)) in self.layers.iter().enumerate() {
            step.enter_layer(i);
            attention.record(step, &x, cache.kv(i), &ropes[0])?; // norm, q k v, q/k norm and rope, attention, output
            feed_forward.record(step, &x)?; // norm, (router,) gate and up, down
        }
        Ok(x)
    }

    fn head(&self) -> (&Norm, &Matrix) {
        (&self.ends.norm, &self.ends.output)
    }
}
