//! Mixtures of experts: the router's choice, and the experts' gated MLP with its weighted combine. One token reads its
//! experts by mat-vec; many are grouped by expert (count, scan, scatter) for a tiled matmul.

use super::linear::{MatmulParams, MatvecParams};
use super::tiled::Tiled;
use super::{Activation, MAX_EXPERTS, Product, Result, Shard, Stack, Step, Tensor, ensure};
use crate::gpu::{Call, Cost, Grid, KernelSpec, View, params};

params!(RouterParams {
    tokens: u32,
    experts: u32,
    ranks: u32,
    scale: f32,
    shared_experts: u32,
    groups: u32,
    groups_used: u32
});
params!(GroupParams { rows: u32, tiles: u32 });
params!(ExpertDownParams {
    rows: u32,
    columns: u32,
    row_words: u32,
    tail_words: u32,
    expert_words: u32,
    shard: u32,
    first_group: u32,
});
params!(ExpertCombineParams { tokens: u32, columns: u32, ranks: u32, first_group: u32 });

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

/// A choice by sigmoids (DeepSeek-V3, arXiv 2412.19437, section 2.1.2): the best `ranks` by sigmoid(logit) + bias.
pub struct SigmoidRouter {
    /// f32 [experts], for the choice alone.
    pub bias: View,
    /// Experts of each token.
    pub ranks: usize,
    /// Whether the weights, which are the sigmoids, are brought to a sum of 1.
    pub renormalise: bool,
    /// Of the weights, after that.
    pub scale: f32,
    /// Groups of as many experts each, and how many of them a token chooses from: those whose two best score most
    /// together.
    pub groups: (usize, usize),
    /// Experts behind the routed ones in the stacks, which every token uses with weight 1.
    pub shared: usize,
}

/// The input projections of all experts.
pub enum ExpertGateUp {
    /// [experts, 2 * ff, columns], gate rows first.
    Joined(Stack),
    Split {
        gate: Stack,
        up: Stack,
    },
}

impl ExpertGateUp {
    fn stack(&self) -> &Stack {
        match self {
            ExpertGateUp::Joined(stack) | ExpertGateUp::Split { gate: stack, .. } => stack,
        }
    }
}

/// Biases of all experts.
pub struct ExpertBias {
    /// f32 [experts, 2 * ff], those of the gate first.
    pub gate_up: View,
    /// f32 [experts, hidden].
    pub down: View,
}

/// The gated MLPs of all experts: down(activation(gate x) * up x).
pub struct ExpertMlp {
    pub gate_up: ExpertGateUp,
    pub down: Stack,
    pub bias: Option<ExpertBias>,
    pub activation: Activation,
}

/// Rows of (token, rank) sorted by expert.
struct Groups {
    order: View,
    tiles: View,
    count: usize,
    tiled: Tiled,
}

impl Step<'_> {
    /// Softmax over the logits [tokens, experts], the best `ranks` of each token, their weights renormalised to 1 if
    /// asked.
    pub fn route_softmax(&mut self, logits: &Tensor, ranks: usize, renormalise: bool) -> Result<Routing> {
        let spec = self.router_spec(logits).flag("RENORMALISE", renormalise);
        self.route(logits, spec, None, RouterParams { ranks: ranks as u32, ..Default::default() })
    }

    /// The choice of `router` from logits [tokens, experts].
    pub fn route_sigmoid(&mut self, logits: &Tensor, router: &SigmoidRouter) -> Result<Routing> {
        let SigmoidRouter { bias, groups: (groups, groups_used), .. } = router;
        ensure(bias.size >= logits.columns as u64 * 4, "router", || {
            format!("a bias of {} bytes for {} experts", bias.size, logits.columns)
        })?;
        let size = logits.columns / groups.max(&1);
        let whole = size * groups == logits.columns && groups_used <= groups && router.ranks <= groups_used * size;
        ensure(whole && (*groups == 1 || size >= 2), "router", || {
            format!("{} of {} experts in {groups_used} of {groups} groups", router.ranks, logits.columns)
        })?;
        let spec = self.router_spec(logits).flag("SIGMOID", true).flag("RENORMALISE", router.renormalise);
        let spec = spec.flag("GROUPS", groups_used < groups);
        let params = RouterParams {
            ranks: router.ranks as u32,
            scale: router.scale,
            shared_experts: router.shared as u32,
            groups: *groups as u32,
            groups_used: *groups_used as u32,
            ..Default::default()
        };
        self.route(logits, spec, Some(bias), params)
    }

    fn router_spec(&self, logits: &Tensor) -> KernelSpec {
        let experts = logits.columns.next_power_of_two() as u32;
        KernelSpec::new("router").size("WG", self.tuning.wide.min(experts)).size("EXPERTS", experts)
    }

    fn route(
        &mut self,
        logits: &Tensor,
        spec: KernelSpec,
        bias: Option<&View>,
        params: RouterParams,
    ) -> Result<Routing> {
        let (experts, ranks) = (logits.columns, params.ranks as usize);
        ensure(ranks >= 1 && ranks <= experts && experts <= MAX_EXPERTS, "router", || {
            format!("{ranks} of {experts} experts: at least 1 of at most {MAX_EXPERTS} are supported")
        })?;
        ensure(logits.rows == self.tokens, "router", || format!("{} rows of {} tokens", logits.rows, self.tokens))?;
        let (experts, ranks) = (experts + params.shared_experts as usize, ranks + params.shared_experts as usize);
        let routed = self.tensor("routed", ranks)?.view;
        let gates = self.tensor("gates", ranks)?.view;
        let mut bind = vec![("logits", &logits.view), ("routed", &routed), ("gates", &gates)];
        bind.extend(bias.map(|bias| ("bias", bias)));
        self.recorder.call(Call {
            spec,
            bind: &bind,
            params: RouterParams { tokens: self.tokens as u32, experts: logits.columns as u32, ..params },
            grid: Grid::linear(self.tokens as u64, 1),
            cost: Cost { other_bytes: (self.tokens * (logits.columns + 2 * ranks) * 4) as u64, ..Cost::default() },
        })?;
        Ok(Routing { routed, gates, experts, ranks })
    }

    /// y += sum over ranks of gate * mlp(norm(y)), y [tokens, hidden].
    pub fn norm_experts(&mut self, y: &Tensor, norm: &super::Norm, routing: &Routing, mlp: &ExpertMlp) -> Result<()> {
        let ExpertMlp { gate_up, down, .. } = mlp;
        let stack = gate_up.stack();
        let ff = down.columns;
        ensure(stack.experts == routing.experts && down.experts == routing.experts, "experts", || {
            format!("router of {}, stacks of {} and {} experts", routing.experts, stack.experts, down.experts)
        })?;
        let whole = stack.columns == y.columns && down.rows == y.columns && y.rows == self.tokens;
        ensure(whole && y.columns.is_multiple_of(4) && ff.is_multiple_of(4), "experts", || {
            format!("hidden {}, gate columns {}, down [{}, {ff}]", y.columns, stack.columns, down.rows)
        })?;
        let (rows, same) = match gate_up {
            ExpertGateUp::Joined(both) => (both.rows / 2, both.rows.is_multiple_of(2)),
            ExpertGateUp::Split { gate, up } => {
                (gate.rows, (up.experts, up.rows, up.columns) == (gate.experts, gate.rows, gate.columns))
            }
        };
        ensure(rows == ff && same, "experts", || {
            format!("{rows} gate rows, or up rows that differ; down has {ff} columns")
        })?;
        let sizes = mlp.bias.as_ref().map(|b| (b.gate_up.size, b.down.size));
        let wanted = ((8 * stack.experts * ff) as u64, (4 * stack.experts * y.columns) as u64);
        ensure(sizes.is_none_or(|s| s.0 >= wanted.0 && s.1 >= wanted.1), "experts", || {
            format!("biases of {sizes:?} bytes, {wanted:?} are needed")
        })?;
        self.lookup(routing, stack)?;
        let h = self.scratch.bytes(
            self.recorder.gpu(),
            "expert h",
            (self.scratch.max_tokens * routing.ranks * ff * 4) as u64,
        )?;
        if self.tokens == 1 {
            self.expert_matvec(y, norm, routing, mlp, &h, ff)?;
            return self.expert_down(y, routing, &h, mlp);
        }
        let groups = self.group(routing, stack)?;
        let x = self.rms_norm(y, norm)?;
        match gate_up {
            ExpertGateUp::Joined(stack) => self.grouped(&x.view, &h, stack, mlp, routing, &groups, Grouped::GateUp)?,
            ExpertGateUp::Split { gate, up } => {
                self.grouped(&x.view, &h, up, mlp, routing, &groups, Grouped::Up)?;
                self.grouped(&x.view, &h, gate, mlp, routing, &groups, Grouped::Gate)?;
            }
        }
        let rows = self.scratch.bytes(
            self.recorder.gpu(),
            "expert rows",
            (self.scratch.max_tokens * routing.ranks * y.columns * 4) as u64,
        )?;
        self.grouped(&h, &rows, down, mlp, routing, &groups, Grouped::Down)?;
        self.expert_combine(y, &rows, routing)
    }

    fn expert_matvec(
        &mut self,
        x: &Tensor,
        norm: &super::Norm,
        routing: &Routing,
        mlp: &ExpertMlp,
        h: &View,
        ff: usize,
    ) -> Result<()> {
        let passes: Vec<(&Stack, &'static str, usize)> = match &mlp.gate_up {
            ExpertGateUp::Joined(stack) => vec![(stack, "SWIGLU", 0)],
            ExpertGateUp::Split { gate, up } => vec![(up, "", ff), (gate, "SILU_MUL", 0)],
        };
        let bias = mlp.bias.as_ref().map(|b| ("bias", &b.gate_up));
        for (stack, flag, bias_base) in passes {
            let (wg, rows) = self.tuning.matvec;
            let outputs = if flag == "SWIGLU" { rows / 2 } else { rows };
            for (index, shard) in stack.shards.iter().enumerate() {
                let spec = self.reducing("matvec", wg).format(stack.format).size("ROWS", rows);
                let spec = if flag.is_empty() { spec } else { mlp.activation.flags(spec).flag(flag, true) };
                let mut bind = vec![
                    ("weights", &shard.view),
                    ("x", &x.view),
                    ("y", h),
                    ("norm", &norm.weight),
                    ("routed", &routing.routed),
                    ("experts", &stack.table),
                ];
                bind.extend(bias);
                self.recorder.call(Call {
                    spec: spec
                        .flag("NORM", true)
                        .flag("EXPERT", true)
                        .flag("BIAS", bias.is_some())
                        .flag("RAGGED", !stack.columns.is_multiple_of(16)),
                    bind: &bind,
                    params: MatvecParams {
                        outputs: ff as u32,
                        columns: stack.columns as u32,
                        row_words: stack.row_words(),
                        tail_words: stack.tail_words(),
                        eps: norm.eps,
                        bias_base: bias_base as u32,
                        bias_stride: 2 * ff as u32,
                        expert_words: stack.expert_words(),
                        shard: index as u32,
                        ..Default::default()
                    },
                    grid: Grid::linear(ff.div_ceil(outputs as usize) as u64, routing.ranks as u64),
                    cost: expert_cost(stack, shard, routing.ranks, routing.ranks),
                })?;
            }
        }
        Ok(())
    }

    fn expert_down(&mut self, y: &Tensor, routing: &Routing, h: &View, mlp: &ExpertMlp) -> Result<()> {
        let (wg, rows) = self.tuning.matvec;
        let down = &mlp.down;
        let bias = mlp.bias.as_ref().map(|b| ("bias", &b.down));
        for (index, shard) in down.shards.iter().enumerate() {
            let spec = self.reducing("expert_down", wg).format(down.format).size("ROWS", rows);
            let mut bind = vec![
                ("weights", &shard.view),
                ("h", h),
                ("y", &y.view),
                ("routed", &routing.routed),
                ("gates", &routing.gates),
                ("experts", &down.table),
            ];
            bind.extend(bias);
            self.recorder.call(Call {
                spec: spec
                    .size("RANKS", routing.ranks as u32)
                    .flag("RAGGED", !down.columns.is_multiple_of(16))
                    .flag("BIAS", bias.is_some()),
                bind: &bind,
                params: ExpertDownParams {
                    rows: down.rows as u32,
                    columns: down.columns as u32,
                    row_words: down.row_words(),
                    tail_words: down.tail_words(),
                    expert_words: down.expert_words(),
                    shard: index as u32,
                    ..Default::default()
                },
                grid: Grid::linear(down.rows.div_ceil(rows as usize) as u64, 1),
                cost: expert_cost(down, shard, routing.ranks, routing.ranks),
            })?;
        }
        Ok(())
    }

    fn group(&mut self, routing: &Routing, stack: &Stack) -> Result<Groups> {
        let rows = self.tokens * routing.ranks;
        // The three products share the tiles, and so the kernel.
        let tiled = self.tiled(Product::Grouped, stack.format, [stack.rows, stack.columns]);
        let bn = tiled.bn as usize;
        // Every expert may end in a tile that is not full.
        let count = rows.div_ceil(bn) + routing.experts.min(rows);
        let most_rows = self.scratch.max_tokens * routing.ranks;
        let gpu = self.recorder.gpu();
        let order = self.scratch.bytes(gpu, "expert order", most_rows as u64 * 4)?;
        let most = most_rows.div_ceil(bn) + routing.experts;
        let tiles = self.scratch.bytes(gpu, "expert tiles", most as u64 * 16)?;
        self.recorder.call(Call {
            spec: KernelSpec::new("expert_group")
                .size("WG", self.tuning.wide)
                .size("BN", bn as u32)
                .size("EXPERTS", routing.experts as u32),
            bind: &[("routed", &routing.routed), ("order", &order), ("tiles", &tiles)],
            params: GroupParams { rows: rows as u32, tiles: count as u32 },
            grid: Grid([1, 1, 1]),
            cost: Cost { other_bytes: (rows * 8) as u64, ..Cost::default() },
        })?;
        Ok(Groups { order, tiles, count, tiled })
    }

    #[allow(clippy::too_many_arguments, reason = "what differs between the three products of an expert")]
    fn grouped(
        &mut self,
        x: &View,
        y: &View,
        stack: &Stack,
        mlp: &ExpertMlp,
        routing: &Routing,
        g: &Groups,
        what: Grouped,
    ) -> Result<()> {
        let swiglu = what == Grouped::GateUp;
        let outputs = if swiglu { stack.rows / 2 } else { stack.rows };
        let spec = g
            .tiled
            .spec
            .clone()
            .format(stack.format)
            .flag("GROUPED", true)
            .flag("SWIGLU", swiglu)
            .flag("SILU_MUL", what == Grouped::Gate)
            .flag("GATHER", what != Grouped::Down)
            .flag("SCATTER", what == Grouped::Down)
            .flag("BIAS", mlp.bias.is_some());
        let spec = if swiglu || what == Grouped::Gate { mlp.activation.flags(spec) } else { spec };
        let bias = mlp.bias.as_ref().map(|b| if what == Grouped::Down { &b.down } else { &b.gate_up });
        let (bias_base, bias_stride) = match what {
            Grouped::Down => (0, outputs),
            Grouped::Up => (outputs, 2 * outputs),
            Grouped::GateUp | Grouped::Gate => (0, 2 * outputs),
        };
        for (index, shard) in stack.shards.iter().enumerate() {
            let mut bind = vec![
                ("weights", &shard.view),
                ("x", x),
                ("y", y),
                ("order", &g.order),
                ("tiles", &g.tiles),
                ("experts", &stack.table),
            ];
            bind.extend(bias.map(|b| ("bias", b)));
            self.recorder.call(Call {
                spec: spec.clone(),
                bind: &bind,
                params: MatmulParams {
                    outputs: outputs as u32,
                    columns: stack.columns as u32,
                    row_words: stack.row_words(),
                    tail_words: stack.tail_words(),
                    tokens: (self.tokens * routing.ranks) as u32,
                    y_stride: outputs as u32,
                    bias_base: bias_base as u32,
                    bias_stride: bias_stride as u32,
                    expert_words: stack.expert_words(),
                    shard: index as u32,
                    ranks: routing.ranks as u32,
                    ..Default::default()
                },
                grid: g.tiled.grid(outputs, swiglu, g.count),
                cost: expert_cost(
                    stack,
                    shard,
                    (self.tokens * routing.ranks).min(shard.count),
                    self.tokens * routing.ranks,
                ),
            })?;
        }
        Ok(())
    }

    fn expert_combine(&mut self, y: &Tensor, rows: &View, routing: &Routing) -> Result<()> {
        let wg = self.tuning.wide;
        let bytes = (self.tokens * y.columns * 4) as u64;
        self.recorder.call(Call {
            spec: KernelSpec::new("expert_combine").size("WG", wg),
            bind: &[("rows", rows), ("gates", &routing.gates), ("y", &y.view)],
            params: ExpertCombineParams {
                tokens: self.tokens as u32,
                columns: y.columns as u32,
                ranks: routing.ranks as u32,
                ..Default::default()
            },
            grid: Grid::linear((bytes / 16).div_ceil(u64::from(wg)), 1),
            cost: Cost { other_bytes: bytes * (routing.ranks as u64 + 2), ..Cost::default() },
        })?;
        Ok(())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Grouped {
    GateUp,
    Up,
    Gate,
    Down,
}

/// `experts` experts are read for `rows` rows of (token, rank); a shard has its share of both.
fn expert_cost(stack: &Stack, shard: &Shard, experts: usize, rows: usize) -> Cost {
    let share = |n: usize| (n * shard.count / stack.slots()) as u64;
    Cost {
        weight_bytes: stack.expert_bytes() * share(experts),
        other_bytes: share(rows) * ((stack.rows + stack.columns) * 4) as u64,
        flops: share(rows) * (2 * stack.rows * stack.columns) as u64,
        ..Cost::default()
    }
}
