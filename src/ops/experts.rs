//! Mixtures of experts: their gated MLPs with the weighted combine. One token reads its experts by mat-vec; many are
//! grouped by expert (count, scan, scatter) for a tiled matmul.

use super::input::Input;
use super::linear::{MatmulParams, MatvecParams};
use super::shards::Beside;
use super::{Activation, Arithmetic, Norm, Product, Result, Routing, Stack, Step, Tensor, ensure};
use crate::gpu::{Call, Cost, Grid, KernelSpec, View, params};

params!(GroupParams { rows: u32, tiles: u32 });
params!(ExpertDownParams {
    rows: u32,
    columns: u32,
    row_words: u32,
    tail_words: u32,
    expert_words: u32,
    first_group: u32,
});
params!(ExpertCombineParams { tokens: u32, columns: u32, ranks: u32, first_group: u32 });

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

/// What a token's weights of its experts multiply.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Weigh {
    Outputs,
    Inputs,
}

/// A mixture, applied.
#[derive(Clone, Copy)]
struct Mix<'a> {
    routing: &'a Routing,
    mlp: &'a ExpertMlp,
    weigh: Weigh,
    /// y = the sum, else y += it.
    store: bool,
}

impl Mix<'_> {
    fn check(&self, tokens: usize, y: &Tensor, x: &Tensor) -> Result<()> {
        let Mix { routing, mlp: ExpertMlp { gate_up, down, bias, .. }, .. } = self;
        let (stack, ff) = (gate_up.stack(), down.columns);
        ensure(stack.experts == routing.experts && down.experts == routing.experts, "experts", || {
            format!("router of {}, stacks of {} and {} experts", routing.experts, stack.experts, down.experts)
        })?;
        ensure(x.rows == tokens && (x.rows, x.columns) == (y.rows, y.columns), "experts", || {
            format!("x [{}, {}], y [{}, {}], {tokens} tokens", x.rows, x.columns, y.rows, y.columns)
        })?;
        let whole = stack.columns == y.columns && down.rows == y.columns;
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
        let sizes = bias.as_ref().map(|b| (b.gate_up.size, b.down.size));
        let wanted = ((8 * stack.experts * ff) as u64, (4 * stack.experts * y.columns) as u64);
        ensure(sizes.is_none_or(|s| s.0 >= wanted.0 && s.1 >= wanted.1), "experts", || {
            format!("biases of {sizes:?} bytes, {wanted:?} are needed")
        })?;
        // Bindings: a kernel has eight.
        let weighed = self.weigh == Weigh::Inputs;
        ensure(!weighed || bias.is_none(), "experts", || "weights on the inputs of biased experts".into())
    }

    /// Storage buffers that the down projection of one token binds beside its stack.
    fn down_buffers(&self) -> usize {
        4 + usize::from(self.mlp.bias.is_some()) + usize::from(self.weigh == Weigh::Outputs)
    }
}

/// Rows of (token, rank) sorted by expert.
struct Groups {
    order: View,
    tiles: View,
    count: usize,
    /// Rows of a tile.
    bn: u32,
}

impl Step<'_> {
    /// y += sum over ranks of gate * mlp(norm(y)), y [tokens, hidden].
    pub fn norm_experts(&mut self, y: &Tensor, norm: &Norm, routing: &Routing, mlp: &ExpertMlp) -> Result<()> {
        self.experts(y, y, norm, &Mix { routing, mlp, weigh: Weigh::Outputs, store: false })
    }

    /// y += sum over ranks of mlp(gate * norm(y)), y [tokens, hidden]; of experts without biases.
    pub fn norm_weighted_experts(&mut self, y: &Tensor, norm: &Norm, routing: &Routing, mlp: &ExpertMlp) -> Result<()> {
        self.experts(y, y, norm, &Mix { routing, mlp, weigh: Weigh::Inputs, store: false })
    }

    /// y = sum over ranks of gate * mlp(norm(x)), x and y [tokens, hidden].
    pub fn project_experts(
        &mut self,
        name: &'static str,
        x: &Tensor,
        norm: &Norm,
        routing: &Routing,
        mlp: &ExpertMlp,
    ) -> Result<Tensor> {
        let y = self.tensor(name, x.columns)?;
        self.experts(&y, x, norm, &Mix { routing, mlp, weigh: Weigh::Outputs, store: true })?;
        Ok(y)
    }

    fn experts(&mut self, y: &Tensor, x: &Tensor, norm: &Norm, mix: &Mix) -> Result<()> {
        let Mix { routing, mlp, .. } = *mix;
        mix.check(self.tokens, y, x)?;
        self.lookup(routing, mlp.gate_up.stack())?;
        let h = (self.scratch.max_tokens * routing.ranks * mlp.down.columns * 4) as u64;
        let h = self.scratch.bytes(self.recorder.gpu(), "expert h", h)?;
        let h = Tensor { view: h, first_row: 0, rows: self.tokens * routing.ranks, columns: mlp.down.columns };
        let (mut x, mut inner) = (Input::new(x, Some(norm)), Input::new(&h, None));
        if self.tokens == 1 && self.in_one_dispatch(&mlp.down, mix.down_buffers()) {
            self.expert_matvec(&mut x, mix, &h.view)?;
            return self.expert_down(y, &mut inner, mix);
        }
        let groups = self.group(routing, mlp.gate_up.stack())?;
        match &mlp.gate_up {
            ExpertGateUp::Joined(stack) => self.grouped(&mut x, &h.view, stack, mix, &groups, Grouped::GateUp)?,
            ExpertGateUp::Split { gate, up } => {
                self.grouped(&mut x, &h.view, up, mix, &groups, Grouped::Up)?;
                self.grouped(&mut x, &h.view, gate, mix, &groups, Grouped::Gate)?;
            }
        }
        let rows = (self.scratch.max_tokens * routing.ranks * y.columns * 4) as u64;
        let rows = self.scratch.bytes(self.recorder.gpu(), "expert rows", rows)?;
        self.grouped(&mut inner, &rows, &mlp.down, mix, &groups, Grouped::Down)?;
        self.expert_combine(y, &rows, mix)
    }

    fn expert_matvec(&mut self, input: &mut Input, mix: &Mix, h: &View) -> Result<()> {
        let Mix { routing, mlp, weigh, .. } = *mix;
        let ff = mlp.down.columns;
        let passes: Vec<(&Stack, &'static str, usize)> = match &mlp.gate_up {
            ExpertGateUp::Joined(stack) => vec![(stack, "SWIGLU", 0)],
            ExpertGateUp::Split { gate, up } => vec![(up, "", ff), (gate, "SILU_MUL", 0)],
        };
        let bias = mlp.bias.as_ref().map(|b| ("bias", &b.gate_up));
        for (stack, flag, bias_base) in passes {
            let (_, rows) = self.tuning.matvec;
            let outputs = if flag == "SWIGLU" { rows / 2 } else { rows };
            let shape = [routing.ranks * stack.rows, stack.columns];
            let wg = self.tuning.matvec_wg(shape[0].div_ceil(rows as usize), stack.columns / 16);
            let arithmetic = self.arithmetic(Product::Matvec, stack.format, shape);
            let (x, norm) = match arithmetic == Arithmetic::Dot {
                true => (self.quantised("quantised", input)?, None),
                false => (input.x.view.clone(), input.norm),
            };
            let mut others = vec![("x", &x), ("y", h), ("routed", &routing.routed), ("experts", &stack.table)];
            others.extend(norm.map(|n| ("norm", &n.weight)));
            others.extend(bias);
            others.extend((weigh == Weigh::Inputs).then_some(("gates", &routing.gates)));
            for beside in stack.beside(self.shards_at_once(stack, others.len())) {
                let spec = beside.flags(self.reducing("matvec", wg).format(stack.format).size("ROWS", rows));
                let spec = if flag.is_empty() { spec } else { mlp.activation.flags(spec).flag(flag, true) };
                let bind: Vec<_> = beside.bind().chain(others.iter().copied()).collect();
                self.recorder.call(Call {
                    spec: arithmetic
                        .flagged(spec)
                        .flag("NORM", norm.is_some())
                        .flag("EXPERT", true)
                        .flag("WEIGHTED", weigh == Weigh::Inputs)
                        .flag("BIAS", bias.is_some())
                        .flag("RAGGED", !stack.columns.is_multiple_of(16)),
                    bind: &bind,
                    params: MatvecParams {
                        outputs: ff as u32,
                        columns: stack.columns as u32,
                        row_words: stack.row_words(),
                        tail_words: stack.tail_words(),
                        eps: norm.map_or(0.0, |n| n.eps),
                        bias_base: bias_base as u32,
                        bias_stride: 2 * ff as u32,
                        expert_words: stack.expert_words(),
                        shard: beside.first as u32,
                        limit: mlp.activation.limit(),
                        ..Default::default()
                    },
                    grid: Grid::linear(ff.div_ceil(outputs as usize) as u64, routing.ranks as u64),
                    cost: expert_cost(stack, &beside, routing.ranks, routing.ranks),
                })?;
            }
        }
        Ok(())
    }

    fn expert_down(&mut self, y: &Tensor, h: &mut Input, mix: &Mix) -> Result<()> {
        let Mix { routing, mlp, weigh, store } = *mix;
        let (_, rows) = self.tuning.matvec;
        let down = &mlp.down;
        let wg = self.tuning.matvec_wg(down.rows.div_ceil(rows as usize), routing.ranks * down.columns / 16);
        let arithmetic = self.arithmetic(Product::Matvec, down.format, [routing.ranks * down.rows, down.columns]);
        let h = self.read_by("quantised h", h, arithmetic)?;
        let bias = mlp.bias.as_ref().map(|b| ("bias", &b.down));
        for beside in down.beside(down.shards.len()) {
            let spec = beside.flags(self.reducing("expert_down", wg).format(down.format).size("ROWS", rows));
            let mut bind: Vec<_> = beside.bind().collect();
            bind.extend([("x", &h), ("y", &y.view), ("routed", &routing.routed), ("experts", &down.table)]);
            bind.extend(bias);
            bind.extend((weigh == Weigh::Outputs).then_some(("gates", &routing.gates)));
            self.recorder.call(Call {
                spec: arithmetic
                    .flagged(spec)
                    .size("RANKS", routing.ranks as u32)
                    .flag("RAGGED", !down.columns.is_multiple_of(16))
                    .flag("UNWEIGHTED", weigh == Weigh::Inputs)
                    .flag("STORE", store)
                    .flag("BIAS", bias.is_some()),
                bind: &bind,
                params: ExpertDownParams {
                    rows: down.rows as u32,
                    columns: down.columns as u32,
                    row_words: down.row_words(),
                    tail_words: down.tail_words(),
                    expert_words: down.expert_words(),
                    ..Default::default()
                },
                grid: Grid::linear(down.rows.div_ceil(rows as usize) as u64, 1),
                cost: expert_cost(down, &beside, routing.ranks, routing.ranks),
            })?;
        }
        Ok(())
    }

    fn group(&mut self, routing: &Routing, stack: &Stack) -> Result<Groups> {
        let rows = self.tokens * routing.ranks;
        // The three products share the tiles.
        let bn = self.tiled(Product::Grouped, self.tokens, stack.format, [stack.rows, stack.columns]).bn;
        // Every expert may end in a tile that is not full.
        let count = rows.div_ceil(bn as usize) + routing.experts.min(rows);
        let most_rows = self.scratch.max_tokens * routing.ranks;
        let gpu = self.recorder.gpu();
        let order = self.scratch.bytes(gpu, "expert order", most_rows as u64 * 4)?;
        let most = most_rows.div_ceil(bn as usize) + routing.experts;
        let tiles = self.scratch.bytes(gpu, "expert tiles", most as u64 * 16)?;
        self.recorder.call(Call {
            spec: KernelSpec::new("expert_group")
                .size("WG", self.tuning.wide)
                .size("BN", bn)
                .size("EXPERTS", routing.experts as u32),
            bind: &[("routed", &routing.routed), ("order", &order), ("tiles", &tiles)],
            params: GroupParams { rows: rows as u32, tiles: count as u32 },
            grid: Grid([1, 1, 1]),
            cost: Cost { other_bytes: (rows * 8) as u64, ..Cost::default() },
        })?;
        Ok(Groups { order, tiles, count, bn })
    }

    fn grouped(
        &mut self,
        input: &mut Input,
        y: &View,
        stack: &Stack,
        mix: &Mix,
        g: &Groups,
        what: Grouped,
    ) -> Result<()> {
        let Mix { routing, mlp, weigh, .. } = *mix;
        let weighted = weigh == Weigh::Inputs && what != Grouped::Down;
        let swiglu = what == Grouped::GateUp;
        let outputs = if swiglu { stack.rows / 2 } else { stack.rows };
        let tiled = self.tiled(Product::Grouped, self.tokens, stack.format, [stack.rows, stack.columns]);
        ensure(tiled.bn == g.bn, "experts", || format!("tiles of {} and of {} tokens", g.bn, tiled.bn))?;
        let rounded = if what == Grouped::Down { "quantised h" } else { "quantised" };
        let x = self.read_by(rounded, input, tiled.arithmetic)?;
        let spec = tiled
            .spec
            .clone()
            .format(stack.format)
            .flag("GROUPED", true)
            .flag("SWIGLU", swiglu)
            .flag("SILU_MUL", what == Grouped::Gate)
            .flag("GATHER", what != Grouped::Down)
            .flag("SCATTER", what == Grouped::Down)
            .flag("WEIGHTED", weighted)
            .flag("BIAS", mlp.bias.is_some());
        let spec = if swiglu || what == Grouped::Gate { mlp.activation.flags(spec) } else { spec };
        let bias = mlp.bias.as_ref().map(|b| if what == Grouped::Down { &b.down } else { &b.gate_up });
        let (bias_base, bias_stride) = match what {
            Grouped::Down => (0, outputs),
            Grouped::Up => (outputs, 2 * outputs),
            Grouped::GateUp | Grouped::Gate => (0, 2 * outputs),
        };
        let mut others = vec![("x", &x), ("y", y), ("order", &g.order), ("tiles", &g.tiles), ("experts", &stack.table)];
        others.extend(bias.map(|b| ("bias", b)));
        others.extend(weighted.then_some(("gates", &routing.gates)));
        for beside in stack.beside(self.shards_at_once(stack, others.len())) {
            let bind: Vec<_> = beside.bind().chain(others.iter().copied()).collect();
            let rows = self.tokens * routing.ranks;
            self.recorder.call(Call {
                spec: beside.flags(spec.clone()),
                bind: &bind,
                params: MatmulParams {
                    outputs: outputs as u32,
                    columns: stack.columns as u32,
                    row_words: stack.row_words(),
                    tail_words: stack.tail_words(),
                    tokens: rows as u32,
                    y_stride: outputs as u32,
                    bias_base: bias_base as u32,
                    bias_stride: bias_stride as u32,
                    expert_words: stack.expert_words(),
                    shard: beside.first as u32,
                    ranks: routing.ranks as u32,
                    limit: mlp.activation.limit(),
                    ..Default::default()
                },
                grid: tiled.grid(outputs, swiglu, g.count),
                cost: expert_cost(stack, &beside, rows.min(beside.slots()), rows),
            })?;
        }
        Ok(())
    }

    fn expert_combine(&mut self, y: &Tensor, rows: &View, mix: &Mix) -> Result<()> {
        let Mix { routing, weigh, store, .. } = *mix;
        let wg = self.tuning.wide;
        let bytes = (self.tokens * y.columns * 4) as u64;
        let mut bind = vec![("rows", rows), ("y", &y.view)];
        bind.extend((weigh == Weigh::Outputs).then_some(("gates", &routing.gates)));
        self.recorder.call(Call {
            spec: KernelSpec::new("expert_combine")
                .size("WG", wg)
                .flag("UNWEIGHTED", weigh == Weigh::Inputs)
                .flag("STORE", store),
            bind: &bind,
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

/// `experts` experts are read for `rows` rows of (token, rank); the shards that are bound have their share of both.
fn expert_cost(stack: &Stack, beside: &Beside, experts: usize, rows: usize) -> Cost {
    let share = |n: usize| (n * beside.slots() / stack.slots()) as u64;
    Cost {
        weight_bytes: stack.expert_bytes() * share(experts),
        other_bytes: share(rows) * ((stack.rows + stack.columns) * 4) as u64,
        flops: share(rows) * (2 * stack.rows * stack.columns) as u64,
        ..Cost::default()
    }
}
