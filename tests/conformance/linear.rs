//! Matrix products: mat-vec and matmul, all formats, all epilogues.

use crate::rig::*;
use halogen::formats::Format;
use halogen::ops::{Activation, GateUp, Joint, Part, Product, twins};
use twins::Epilogue;

#[derive(Clone, Copy, Debug, PartialEq)]
enum What {
    /// norm_linear: y = W norm(x)
    Norm,
    /// norm_joint with a bias, outputs after another part's
    Bias,
    /// add_linear: y += W x
    Residual,
    /// norm_gate_up of joined rows
    Swiglu,
    /// the same with GELU
    Geglu,
    /// norm_gate_up of two matrices
    Split,
    SplitGelu,
    /// Residual, of inputs of all magnitudes
    Extremes,
}
use What::*;

pub fn cases(cases: &mut Vec<Case>) {
    // Every format: its rows in both kernels.
    for &format in Format::ALL {
        let columns = 256;
        add(cases, format, 33, columns, 1, Norm, 1);
        add(cases, format, 33, columns, 7, Norm, 1);
        add(cases, format, 66, 2 * columns, 1, Swiglu, 1);
        add(cases, format, 66, columns, 33, Swiglu, 1);
        add(cases, format, 7, columns, 1, Residual, 1);
        add(cases, format, 130, 3 * columns, 129, Residual, 1);
        add(cases, format, 9, columns, 2, Bias, 1);
        add(cases, format, 9, columns, 1, Bias, 1);
    }
    // Every format at every small batch, and at those that fill no tile.
    for &format in Format::ALL {
        for tokens in [2, 3, 4, 5, 6, 7, 8, 9, 16, 33, 129] {
            add(cases, format, 37, 256, tokens, Residual, 1);
        }
    }
    // Columns that are no multiple of a run.
    for format in [Format::F32, Format::F16, Format::BF16] {
        for columns in [4, 12, 36, 100, 1028] {
            add(cases, format, 5, columns, 1, Norm, 1);
            add(cases, format, 70, columns, 3, Bias, 1);
            add(cases, format, 6, columns, 1, Residual, 1);
            add(cases, format, 10, columns, 1, Split, 1);
        }
    }
    for format in [Format::Q4_0, Format::Q8_0] {
        add(cases, format, 5, 32, 1, Residual, 1);
        add(cases, format, 5, 96, 5, Norm, 1);
    }
    // Every epilogue over few and many rows and tokens.
    for what in [Norm, Bias, Residual, Swiglu, Split, Geglu, SplitGelu] {
        for rows in [2, 34, 200] {
            for tokens in [1, 2, 7, 33, 129] {
                add(cases, Format::Q8_0, rows, 64, tokens, what, 1);
            }
        }
    }
    // Few tokens, which share the weights.
    for tokens in 2..=9 {
        add(cases, Format::Q4K, 35, 768, tokens, Residual, 1);
        add(cases, Format::Q6K, 36, 512, tokens, Swiglu, 1);
        add(cases, Format::F16, 21, 100, tokens, Bias, 1);
        add(cases, Format::F32, 7, 36, tokens, Split, 2);
    }
    // So few rows that more invocations share each: two and four times as many, with and without runs for all of them.
    for columns in [2048, 2304, 4096, 4352] {
        for what in [Norm, Bias, Residual, Swiglu, Split] {
            add(cases, Format::Q4K, 10, columns, 1, what, 1);
            add(cases, Format::F32, 10, columns, 1, what, 1);
        }
    }
    add(cases, Format::F32, 1, 16, 1, Residual, 1);
    add(cases, Format::F32, 1, 4, 2, Residual, 1);
    for format in [Format::Q8_0, Format::Q4K, Format::MXFP4] {
        add(cases, format, 33, 256, 1, Extremes, 1);
    }
    // Shards.
    for what in [Norm, Bias, Residual, Split] {
        for tokens in [1, 3] {
            add(cases, Format::Q4K, 40, 256, tokens, what, 3);
        }
    }
    // Larger than one round of any workgroup, and more workgroups than one dimension holds.
    add(cases, Format::Q4K, 64, 8192, 1, Norm, 1);
    add(cases, Format::Q6K, 64, 4096, 5, Norm, 1);
    add(cases, Format::Q8_0, 20, 32_768, 1, Residual, 1);
    add(cases, Format::Q4K, 34, 32_768, 20, Residual, 1);
    add(cases, Format::F16, 270_000, 4, 1, Residual, 1);
}

/// Rows as long as those of a published model, for a token, few, and many.
pub fn of_model(cases: &mut Vec<Case>, columns: usize) {
    let format = if columns.is_multiple_of(256) { Format::Q4K } else { Format::Q8_0 };
    for (tokens, what) in [(1, Norm), (1, Residual), (5, Residual), (33, Residual)] {
        add(cases, format, 40, columns, tokens, what, 1);
    }
}

/// Blocks of 32: zeros, subnormal numbers, small and large ones, one large among small, halves of a step of 1/127, alike
/// ones.
fn extremes(x: &mut [f32]) {
    for (i, x) in x.iter_mut().enumerate() {
        *x = match i / 32 % 8 {
            0 => 0.0,
            1 => *x * 1e-39,
            2 => *x * 1e-25,
            3 => *x * 1e30,
            4 if i % 32 == 7 => -1e30,
            5 => (i % 32) as f32 + 0.5 * f32::from(i % 32 < 31) + 96.0 * f32::from(i % 32 == 31),
            6 => -7e29,
            _ => *x,
        };
    }
}

fn add(cases: &mut Vec<Case>, format: Format, rows: usize, columns: usize, tokens: usize, what: What, shards: usize) {
    let kind = format!("{what:?}").to_lowercase();
    let cut = if shards > 1 { format!("/shards={shards}") } else { String::new() };
    let name = format!("linear/{format}/rows={rows}/columns={columns}/tokens={tokens}/{kind}{cut}");
    let case = Case::new(name, move |setup| {
        let random = &mut Random::new((rows * 1000 + columns * 10 + tokens) as u64);
        let weights = Weights::random(random, format, rows, columns);
        let mut x = random.floats(tokens * columns);
        if what == Extremes {
            extremes(&mut x);
        }
        let mut rig = Rig::new(setup, tokens, State::at(0), &[]);
        rig.poison("normed", tokens * columns);
        let gpu = rig.gpu();
        let (norm, norm_weight) = norm(gpu, random, columns);
        let normed = twins::rms_norm(&x, &norm_weight, norm.eps);
        let (w, xs) = (&weights.values, tensor(gpu, &x, columns));
        let activation = if [Geglu, SplitGelu].contains(&what) { Activation::GeluTanh } else { Activation::Silu };
        // What the device holds after a norm, which it rounds for integer dot products.
        let read_normed = |rig: &Rig| -> Result<Vec<f32>, String> {
            rig.read_by(format, "quantised", &rig.floats("normed", tokens * columns)?, &normed)
        };
        let took = |rig: &Rig| rig.took(Product::of(tokens), format);
        match what {
            Norm => {
                rig.poison("y", tokens * rows);
                let matrix = weights.matrix(gpu, shards);
                rig.run(|step| step.rms_norm(&xs, &norm).and(step.norm_linear("y", &xs, &norm, &matrix)).map(drop))?;
                took(&rig)?;
                let want = twins::linear(&read_normed(&rig)?, w, columns, None, Epilogue::Store);
                setup.compare("y", &rig.floats("y", tokens * rows)?, &want, rows, format)
            }
            Bias => {
                let (first, total) = (3, rows + 5);
                rig.poison("y", tokens * total);
                let bias = random.floats(rows);
                let view = gpu.upload("bias", &bias).unwrap();
                let part = Part { matrix: weights.matrix(gpu, shards), bias: Some(view), at: first };
                let joint = Joint { parts: vec![part], outputs: total };
                rig.run(|step| step.rms_norm(&xs, &norm).and(step.norm_joint("y", &xs, &norm, &joint)).map(drop))?;
                took(&rig)?;
                let want = twins::linear(&read_normed(&rig)?, w, columns, Some(&bias), Epilogue::Store);
                let y = rig.floats("y", tokens * total)?;
                let others = y.chunks(total).flat_map(|y| y[..first].iter().chain(&y[first + rows..]));
                if others.into_iter().any(|y| y.to_bits() != POISON) {
                    return Err("outputs of another part were written".into());
                }
                let y: Vec<f32> = y.chunks(total).flat_map(|y| y[first..first + rows].to_vec()).collect();
                setup.compare("y", &y, &want, rows, format)
            }
            Residual | Extremes => {
                let y = random.floats(tokens * rows);
                let ys = tensor(gpu, &y, rows);
                let matrix = weights.matrix(gpu, shards);
                rig.run(|step| step.add_linear(&ys, &xs, &matrix, None))?;
                took(&rig)?;
                let want =
                    twins::linear(&rig.read_by(format, "quantised", &x, &x)?, w, columns, None, Epilogue::Residual(&y));
                let got = guarded(gpu, &ys.view, tokens * rows)?;
                setup.compare("y", bytemuck::cast_slice(&got), &want, rows, format)
            }
            Swiglu | Geglu => {
                rig.poison("h", tokens * rows / 2);
                let gate_up = GateUp::Joined(weights.matrix(gpu, 1));
                rig.run(|step| {
                    step.rms_norm(&xs, &norm).and(step.norm_gate_up(&xs, &norm, &gate_up, activation)).map(drop)
                })?;
                took(&rig)?;
                let want = twins::linear(&read_normed(&rig)?, w, columns, None, Epilogue::GateUp(activation));
                setup.compare("h", &rig.floats("h", tokens * rows / 2)?, &want, rows / 2, format)
            }
            Split | SplitGelu => {
                rig.poison("h", tokens * rows);
                let up = Weights::random(random, Format::F16, rows, columns);
                let gate_up = GateUp::Split { gate: weights.matrix(gpu, shards), up: up.matrix(gpu, 1) };
                rig.run(|step| {
                    step.rms_norm(&xs, &norm).and(step.norm_gate_up(&xs, &norm, &gate_up, activation)).map(drop)
                })?;
                took(&rig)?;
                let held = twins::linear(&normed, &up.values, columns, None, Epilogue::Store);
                let x = read_normed(&rig)?;
                let want = twins::linear(&x, w, columns, None, Epilogue::GateMul(activation, &held));
                setup.compare("h", &rig.floats("h", tokens * rows)?, &want, rows, format)
            }
        }
    });
    cases.push(case.of_product(Product::of(tokens), format));
}
