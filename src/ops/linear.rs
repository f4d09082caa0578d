//! Matrix products over any block format: a mat-vec for one token, one that shares its weights for 2 to 8, a tiled matmul
//! for more.

use super::input::Input;
use super::{Arithmetic, GateUp, Joint, Matrix, Norm, Product, Result, Shard, Step, Tensor, ensure};
use crate::gpu::{Call, Cost, Grid, KernelSpec, View, params};

params!(MatvecParams {
    outputs: u32,
    columns: u32,
    row_words: u32,
    tail_words: u32,
    x_base: u32,
    y_base: u32,
    bias_base: u32,
    eps: f32,
    expert_words: u32,
    shard: u32,
    first_group: u32,
    bias_stride: u32,
    limit: f32,
    x_head: u32,
    y_head: u32
});

params!(MatmulParams {
    outputs: u32,
    columns: u32,
    row_words: u32,
    tail_words: u32,
    tokens: u32,
    y_stride: u32,
    y_base: u32,
    bias_base: u32,
    expert_words: u32,
    shard: u32,
    ranks: u32,
    first_group: u32,
    bias_stride: u32,
    limit: f32,
    heads: u32,
    x_base: u32,
    x_head: u32,
    x_stride: u32,
    y_head: u32
});

/// What a gated MLP's gate passes through.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// x / (1 + e^-x)
    Silu,
    /// 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))
    GeluTanh,
    /// gpt-oss's: gate * sigmoid(1.702 gate) * (up + 1), gate at most 7, up within 7
    Clamped,
    /// min(silu(gate), limit) * up, up within the limit: Step-3.5's. Above zero.
    SiluLimited(f32),
    /// silu(min(gate, limit)) * up, up within the limit: DeepSeek-V4's. Above zero.
    SiluCapped(f32),
}

impl Activation {
    pub(super) fn flags(self, spec: KernelSpec) -> KernelSpec {
        spec.flag("GELU", self == Activation::GeluTanh)
            .flag("CLAMPED", self == Activation::Clamped)
            .flag("LIMITED", matches!(self, Activation::SiluLimited(_)))
            .flag("CAPPED", matches!(self, Activation::SiluCapped(_)))
    }

    pub(super) fn limit(self) -> f32 {
        match self {
            Activation::SiluLimited(limit) | Activation::SiluCapped(limit) => limit,
            _ => 0.0,
        }
    }
}

/// What happens to a product before it is written.
#[derive(Clone, Copy, PartialEq)]
enum Epilogue {
    Store,
    /// y += W x
    Residual,
    /// W holds gate rows, then up rows: y = activation(gate) * up
    GateUp(Activation),
    /// y = activation(W x) * y
    GateMul(Activation),
}

impl Epilogue {
    fn flags(self, spec: KernelSpec) -> KernelSpec {
        let spec = spec
            .flag("RESIDUAL", self == Epilogue::Residual)
            .flag("SWIGLU", self.joined())
            .flag("SILU_MUL", matches!(self, Epilogue::GateMul(_)));
        match self {
            Epilogue::GateUp(activation) | Epilogue::GateMul(activation) => activation.flags(spec),
            Epilogue::Store | Epilogue::Residual => spec,
        }
    }

    /// Of the activation, if it has one.
    fn limit(self) -> f32 {
        match self {
            Epilogue::GateUp(activation) | Epilogue::GateMul(activation) => activation.limit(),
            Epilogue::Store | Epilogue::Residual => 0.0,
        }
    }

    /// Two rows of W make an output.
    fn joined(self) -> bool {
        matches!(self, Epilogue::GateUp(_))
    }
}

/// One matrix, applied.
struct Linear<'m> {
    matrix: &'m Matrix,
    bias: Option<&'m View>,
    epilogue: Epilogue,
    /// First output within a row of y.
    at: usize,
}

impl Step<'_> {
    /// y = W norm(x), the outputs of all parts side by side: y [tokens, outputs].
    pub fn norm_joint(&mut self, name: &'static str, x: &Tensor, norm: &Norm, joint: &Joint) -> Result<Tensor> {
        let y = self.tensor(name, joint.outputs)?;
        let mut input = Input::new(x, Some(norm));
        for part in &joint.parts {
            let (matrix, bias) = (&part.matrix, part.bias.as_ref());
            self.linear(&mut input, &y, Linear { matrix, bias, epilogue: Epilogue::Store, at: part.at })?;
        }
        Ok(y)
    }

    /// h = activation(gate norm(x)) * (up norm(x)), h [tokens, ff].
    pub fn norm_gate_up(
        &mut self,
        x: &Tensor,
        norm: &Norm,
        gate_up: &GateUp,
        activation: Activation,
    ) -> Result<Tensor> {
        let ff = match gate_up {
            GateUp::Joined(matrix) => matrix.rows / 2,
            GateUp::Split { gate, .. } => gate.rows,
        };
        let h = self.tensor("h", ff)?;
        let mut input = Input::new(x, Some(norm));
        let mut apply = |matrix, epilogue| self.linear(&mut input, &h, Linear { matrix, bias: None, epilogue, at: 0 });
        match gate_up {
            GateUp::Joined(matrix) => apply(matrix, Epilogue::GateUp(activation))?,
            GateUp::Split { gate, up } => {
                ensure(gate.rows == up.rows, "linear", || format!("{} gate rows, {} up rows", gate.rows, up.rows))?;
                apply(up, Epilogue::Store)?;
                apply(gate, Epilogue::GateMul(activation))?;
            }
        }
        Ok(h)
    }

    /// y += W x + bias.
    pub fn add_linear(&mut self, y: &Tensor, x: &Tensor, matrix: &Matrix, bias: Option<&View>) -> Result<()> {
        self.linear(&mut Input::new(x, None), y, Linear { matrix, bias, epilogue: Epilogue::Residual, at: 0 })
    }

    /// y = W x, y [tokens, rows of W].
    pub fn project(&mut self, name: &'static str, x: &Tensor, matrix: &Matrix) -> Result<Tensor> {
        let y = self.tensor(name, matrix.rows)?;
        self.linear(&mut Input::new(x, None), &y, Linear { matrix, bias: None, epilogue: Epilogue::Store, at: 0 })?;
        Ok(y)
    }

    /// y = W norm(x), y [rows of x, rows of W].
    pub fn norm_linear(&mut self, name: &'static str, x: &Tensor, norm: &Norm, matrix: &Matrix) -> Result<Tensor> {
        let bytes = (x.rows * matrix.rows * 4) as u64;
        let view = self.scratch.bytes(self.recorder.gpu(), name, bytes)?;
        let y = Tensor { view, first_row: 0, rows: x.rows, columns: matrix.rows };
        let mut input = Input::new(x, Some(norm));
        self.linear(&mut input, &y, Linear { matrix, bias: None, epilogue: Epilogue::Store, at: 0 })?;
        Ok(y)
    }

    /// y = W norm(the first columns of x), y [tokens, rows of W].
    pub fn norm_part_linear(&mut self, name: &'static str, x: &Tensor, norm: &Norm, matrix: &Matrix) -> Result<Tensor> {
        if x.rows > 1 {
            let normed = self.rms_norm_part(x, norm)?;
            return self.project(name, &normed, matrix);
        }
        ensure(x.columns >= matrix.columns, "linear", || {
            format!("{} columns of which a matrix reads {}", x.columns, matrix.columns)
        })?;
        let part = Tensor { columns: matrix.columns, ..x.clone() };
        self.norm_linear(name, &part, norm, matrix)
    }

    fn linear(&mut self, input: &mut Input, y: &Tensor, op: Linear) -> Result<()> {
        let (m, x, norm) = (op.matrix, &input.x, input.norm);
        ensure(x.columns == m.columns && x.columns.is_multiple_of(4), "linear", || {
            format!("x has {} columns (a multiple of 4 is needed), the matrix {}", x.columns, m.columns)
        })?;
        let outputs = if op.epilogue.joined() { m.rows / 2 } else { m.rows };
        ensure(y.first_row == 0 && (x.first_row == 0 || x.rows == 1), "linear", || "rows that start late".into())?;
        ensure(op.at + outputs <= y.columns && x.rows == y.rows, "linear", || {
            format!("outputs {}..{} of {} rows into [{}, {}]", op.at, op.at + outputs, x.rows, y.rows, y.columns)
        })?;
        ensure(norm.is_none_or(|n| n.columns == m.columns), "linear", || {
            format!("a norm of {:?} columns before a matrix of {}", norm.map(|n| n.columns), m.columns)
        })?;
        ensure(op.bias.is_none_or(|b| b.size >= m.rows as u64 * 4), "linear", || {
            format!("a bias of {:?} bytes for {} rows", op.bias.map(|b| b.size), m.rows)
        })?;
        ensure(!op.epilogue.joined() || m.shards.len() == 1, "linear", || {
            "gate and up of several shards must be split".into()
        })?;
        let one = x.rows == 1;
        for (stage, shard) in m.staged() {
            stage.into_iter().for_each(|stage| self.recorder.enter_layer(stage));
            if one { self.matvec(input, y, &op, shard)? } else { self.matmul(input, y, &op, shard)? }
        }
        Ok(())
    }

    /// Of one row. The norm stays with it, unless x is rounded for integer dot products.
    fn matvec(&mut self, input: &mut Input, y: &Tensor, op: &Linear, shard: &Shard) -> Result<()> {
        let m = op.matrix;
        let swiglu = op.epilogue.joined();
        let outputs = if swiglu { m.rows / 2 } else { shard.count };
        let (_, rows) = self.tuning.matvec;
        let wg = self.tuning.matvec_wg(m.rows.div_ceil(rows as usize), m.columns / 16);
        let arithmetic = self.arithmetic(Product::Matvec, m.format, [m.rows, m.columns]);
        let (x, x_base, norm) = match arithmetic == Arithmetic::Dot {
            true => (self.quantised("quantised", input)?, 0, None),
            false => (input.x.view.clone(), input.x.first_row * m.columns / 4, input.norm),
        };
        let spec = op.epilogue.flags(self.reducing("matvec", wg).format(m.format).size("ROWS", rows));
        let spec = arithmetic.flagged(spec);
        let spec = spec
            .flag("NORM", norm.is_some())
            .flag("BIAS", op.bias.is_some())
            .flag("RAGGED", !m.columns.is_multiple_of(16));
        let mut bind = vec![("weights", &shard.view), ("x", &x), ("y", &y.view)];
        bind.extend(norm.map(|n| ("norm", &n.weight)));
        bind.extend(op.bias.map(|b| ("bias", b)));
        self.recorder.call(Call {
            spec,
            bind: &bind,
            params: MatvecParams {
                outputs: outputs as u32,
                columns: m.columns as u32,
                row_words: m.row_words(),
                tail_words: m.tail_words(),
                x_base: x_base as u32,
                y_base: (op.at + shard.first) as u32,
                bias_base: shard.first as u32,
                eps: norm.map_or(0.0, |n| n.eps),
                limit: op.epilogue.limit(),
                ..Default::default()
            },
            grid: Grid::linear(outputs.div_ceil(if swiglu { rows / 2 } else { rows } as usize) as u64, 1),
            cost: linear_cost(m, shard, 1),
        })?;
        Ok(())
    }

    fn matmul(&mut self, input: &mut Input, y: &Tensor, op: &Linear, shard: &Shard) -> Result<()> {
        let (m, tokens) = (op.matrix, input.x.rows);
        let tiled = self.tiled(Product::of(tokens), tokens, m.format, [m.rows, m.columns]);
        let x = self.read_by("quantised", input, tiled.arithmetic)?;
        let swiglu = op.epilogue.joined();
        let outputs = if swiglu { m.rows / 2 } else { shard.count };
        let mut bind = vec![("weights", &shard.view), ("x", &x), ("y", &y.view)];
        bind.extend(op.bias.map(|b| ("bias", b)));
        let spec = op.epilogue.flags(tiled.spec.clone().format(m.format));
        self.recorder.call(Call {
            spec: spec.flag("BIAS", op.bias.is_some()),
            bind: &bind,
            params: MatmulParams {
                outputs: outputs as u32,
                columns: m.columns as u32,
                row_words: m.row_words(),
                tail_words: m.tail_words(),
                tokens: tokens as u32,
                y_stride: y.columns as u32,
                y_base: (op.at + shard.first) as u32,
                bias_base: shard.first as u32,
                limit: op.epilogue.limit(),
                ..Default::default()
            },
            grid: tiled.grid(outputs, swiglu, tokens.div_ceil(tiled.bn as usize)),
            cost: linear_cost(m, shard, tokens),
        })?;
        Ok(())
    }
}

fn linear_cost(m: &Matrix, shard: &Shard, tokens: usize) -> Cost {
    Cost {
        weight_bytes: (m.format.device_row_bytes(m.columns) * shard.count) as u64,
        other_bytes: ((m.columns + shard.count) * tokens * 4) as u64,
        flops: 2 * (m.columns * shard.count * tokens) as u64,
        ..Cost::default()
    }
}
