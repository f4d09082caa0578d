//! The router's choice: which experts each token uses, and with what weights.

use super::{MAX_EXPERTS, Result, Step, Tensor, ensure};
use crate::gpu::{Call, Cost, Grid, KernelSpec, View, params};

params!(RouterParams {
    tokens: u32,
    experts: u32,
    ranks: u32,
    scale: f32,
    shared_experts: u32,
    groups: u32,
    groups_used: u32,
    stride: u32,
    first_group: u32,
});

/// The experts that tokens chose.
pub struct Routing {
    /// u32 [tokens, ranks], best first; then those that all tokens share.
    pub routed: View,
    /// f32 [tokens, ranks]: the weights of their outputs.
    pub gates: View,
    /// Shared ones with them.
    pub experts: usize,
    pub ranks: usize,
}

/// What makes a logit a score above zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scoring {
    /// 1 / (1 + e^-x)
    Sigmoid,
    /// sqrt(log(1 + e^x)): DeepSeek-V4's.
    SqrtSoftplus,
}

/// A choice by sigmoids (DeepSeek-V3, arXiv 2412.19437, section 2.1.2): the best `ranks` by sigmoid(logit) + bias, or by
/// the logit where there is no bias.
pub struct SigmoidRouter {
    /// f32 `[experts]`, for the choice alone.
    pub bias: Option<View>,
    pub scoring: Scoring,
    /// Experts of each token.
    pub ranks: usize,
    /// Whether the weights, which are the scores, are brought to a sum of 1.
    pub renormalise: bool,
    /// Of the weights, after that.
    pub scale: f32,
    /// Groups of as many experts each, and how many of them a token chooses from: those whose two best score most
    /// together.
    pub groups: (usize, usize),
    /// Experts behind the routed ones in the stacks, which every token uses with weight 1.
    pub shared: usize,
}

/// A choice by the token's id; weights are square roots of softplus of the logits, as in [`Scoring::SqrtSoftplus`].
pub struct HashRouter {
    /// u32 [vocabulary, ranks], all below the number of experts.
    pub table: View,
    pub ranks: usize,
    /// As in [`SigmoidRouter`].
    pub renormalise: bool,
    pub scale: f32,
    pub shared: usize,
}

/// A choice by softmax whose weights, brought to a sum of 1, an expert's own factor multiplies.
pub struct ExpertRouter {
    /// Experts of each token.
    pub ranks: usize,
    /// f32 `[experts]`.
    pub scales: View,
}

impl Step<'_> {
    /// Softmax over the logits [tokens, experts], the best `ranks` of each token, their weights renormalised to 1 if
    /// asked.
    pub fn route_softmax(&mut self, logits: &Tensor, ranks: usize, renormalise: bool) -> Result<Routing> {
        let experts = logits.columns;
        let spec = self.router_spec(experts).flag("RENORMALISE", renormalise);
        self.route(logits, experts, spec, &[], RouterParams { ranks: ranks as u32, ..Default::default() })
    }

    /// As [`Step::route_softmax`], of all but the last column of the logits [tokens, experts + 1]. If `joined`, one more
    /// expert follows the chosen ones, which every token uses, with the sigmoid of the last column as its weight.
    pub fn route_softmax_beside(
        &mut self,
        logits: &Tensor,
        ranks: usize,
        renormalise: bool,
        joined: bool,
    ) -> Result<Routing> {
        ensure(logits.columns >= 2, "router", || format!("{} logits of experts and a gate", logits.columns))?;
        let experts = logits.columns - 1;
        let spec = self.router_spec(experts).flag("RENORMALISE", renormalise).flag("SHARED_GATE", joined);
        let params = RouterParams { ranks: ranks as u32, shared_experts: u32::from(joined), ..Default::default() };
        self.route(logits, experts, spec, &[], params)
    }

    /// The choice of `router` from logits [tokens, experts].
    pub fn route_scaled(&mut self, logits: &Tensor, router: &ExpertRouter) -> Result<Routing> {
        let ExpertRouter { ranks, scales } = router;
        ensure(scales.size >= logits.columns as u64 * 4, "router", || {
            format!("scales of {} bytes for {} experts", scales.size, logits.columns)
        })?;
        let spec = self.router_spec(logits.columns).flag("RENORMALISE", true).flag("SCALED", true);
        let params = RouterParams { ranks: *ranks as u32, ..Default::default() };
        self.route(logits, logits.columns, spec, &[("scales", scales)], params)
    }

    /// The choice of `router` from logits [tokens, experts].
    pub fn route_sigmoid(&mut self, logits: &Tensor, router: &SigmoidRouter) -> Result<Routing> {
        let SigmoidRouter { groups: (groups, groups_used), .. } = router;
        let bias = router.bias.as_ref();
        ensure(bias.is_none_or(|b| b.size >= logits.columns as u64 * 4), "router", || {
            format!("a bias of {:?} bytes for {} experts", bias.map(|b| b.size), logits.columns)
        })?;
        let size = logits.columns / groups.max(&1);
        let whole = size * groups == logits.columns && groups_used <= groups && router.ranks <= groups_used * size;
        ensure(whole && (*groups == 1 || size >= 2), "router", || {
            format!("{} of {} experts in {groups_used} of {groups} groups", router.ranks, logits.columns)
        })?;
        let spec = self.router_spec(logits.columns).flag("SIGMOID", true).flag("RENORMALISE", router.renormalise);
        let spec = spec.flag("GROUPS", groups_used < groups).flag("UNBIASED", bias.is_none());
        let spec = spec.flag("SOFTPLUS", router.scoring == Scoring::SqrtSoftplus);
        let params = RouterParams {
            ranks: router.ranks as u32,
            scale: router.scale,
            shared_experts: router.shared as u32,
            groups: *groups as u32,
            groups_used: *groups_used as u32,
            ..Default::default()
        };
        self.route(logits, logits.columns, spec, &Vec::from_iter(bias.map(|bias| ("bias", bias))), params)
    }

    /// The choice of `router`, whose table has a row for every token id, with weights from logits [tokens, experts].
    pub fn route_hashed(&mut self, logits: &Tensor, router: &HashRouter) -> Result<Routing> {
        let HashRouter { table, ranks, renormalise, scale, shared } = router;
        ensure(table.size >= (4 * ranks) as u64, "router", || format!("a table of {} bytes", table.size))?;
        let spec = ["SIGMOID", "SOFTPLUS", "HASHED", "UNBIASED"]
            .into_iter()
            .fold(self.router_spec(logits.columns), |spec, flag| spec.flag(flag, true));
        let params =
            RouterParams { ranks: *ranks as u32, scale: *scale, shared_experts: *shared as u32, ..Default::default() };
        let ids = self.token_ids.clone();
        let more = [("table", table), ("tokens", &ids)];
        self.route(logits, logits.columns, spec.flag("RENORMALISE", *renormalise), &more, params)
    }

    fn router_spec(&self, experts: usize) -> KernelSpec {
        let experts = experts.next_power_of_two() as u32;
        KernelSpec::new("router").size("WG", self.tuning.wide.min(experts)).size("EXPERTS", experts)
    }

    fn route(
        &mut self,
        logits: &Tensor,
        experts: usize,
        spec: KernelSpec,
        more: &[(&'static str, &View)],
        params: RouterParams,
    ) -> Result<Routing> {
        let ranks = params.ranks as usize;
        ensure(ranks >= 1 && ranks <= experts && experts <= MAX_EXPERTS, "router", || {
            format!("{ranks} of {experts} experts: at least 1 of at most {MAX_EXPERTS} are supported")
        })?;
        ensure(logits.rows == self.tokens, "router", || format!("{} rows of {} tokens", logits.rows, self.tokens))?;
        let shared = params.shared_experts as usize;
        let ranks = ranks + shared;
        let routed = self.tensor("routed", ranks)?.view;
        let gates = self.tensor("gates", ranks)?.view;
        let mut bind = vec![("logits", &logits.view), ("routed", &routed), ("gates", &gates)];
        bind.extend(more.iter().copied());
        self.recorder.call(Call {
            spec,
            bind: &bind,
            params: RouterParams {
                tokens: self.tokens as u32,
                experts: experts as u32,
                stride: logits.columns as u32,
                ..params
            },
            grid: Grid::linear(self.tokens as u64, 1),
            cost: Cost { other_bytes: (self.tokens * (logits.columns + 2 * ranks) * 4) as u64, ..Cost::default() },
        })?;
        Ok(Routing { routed, gates, experts: experts + shared, ranks })
    }
}
