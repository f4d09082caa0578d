//! Products of a matrix with one token, a few, and a prefill's.

use super::Work;
use super::operators::{Case, Chosen};
use super::rig::{Made, spread, tensor};
use super::sizes::Sizes;
use super::weights::Pool;
use crate::bench::{Random, Result};
use crate::formats::Format;
use crate::gpu::Gpu;
use crate::ops::{Tensor, twins};

/// Tokens of a small batch.
const BATCH: usize = 4;
/// Outputs that are held against the twin: rows, and tokens of each.
const ROWS: usize = 64;
const TOKENS: usize = 8;

pub fn matvec(s: &Sizes, chosen: &Chosen) -> Vec<Case> {
    use Format::*;
    cases(&s.matrices, chosen, &[Q4K, Q6K, Q8_0, MXFP4, F16], 1)
}

pub fn batch(s: &Sizes, chosen: &Chosen) -> Vec<Case> {
    cases(&s.tiled, chosen, &[Format::Q4K], BATCH)
}

pub fn matmul(s: &Sizes, chosen: &Chosen) -> Vec<Case> {
    cases(&s.tiled, chosen, &[Format::Q4K], s.prefill)
}

fn cases(shapes: &[[usize; 2]], chosen: &Chosen, usual: &[Format], tokens: usize) -> Vec<Case> {
    let of = |format: Format| shapes.iter().map(move |shape| case(format, *shape, tokens));
    chosen.formats(usual).into_iter().flat_map(of).collect()
}

/// y += W x.
fn case(format: Format, shape: [usize; 2], tokens: usize) -> Case {
    let [rows, columns] = shape;
    let name = match tokens {
        1 => format!("{format} {rows}x{columns}"),
        _ => format!("{format} {rows}x{columns} by {tokens}"),
    };
    let weights = rows * (columns / format.block()) * format.block_bytes();
    let work = Work {
        kept: weights as u64,
        bytes: (weights + tokens * (columns + 2 * rows) * 4) as u64,
        flops: (2 * rows * columns * tokens) as u64,
    };
    Case::new(name, work, move |gpu, copies| make(gpu, copies, format, shape, tokens)).of(format, &[columns])
}

fn make(gpu: &Gpu, copies: usize, format: Format, [rows, columns]: [usize; 2], tokens: usize) -> Result<Made> {
    let pool = Pool::new(format, columns);
    let mut random = Random::new(1);
    let first = random.floats(tokens * columns);
    let mut inputs = Vec::new();
    for copy in 0..copies {
        let x = if copy == 0 { first.clone() } else { random.floats(tokens * columns) };
        inputs.push((tensor(gpu, &x, columns)?, pool.matrix(gpu, copy, rows)?));
    }
    let zeros = vec![0f32; tokens * rows];
    let y = Tensor { view: gpu.upload("y", &zeros)?, first_row: 0, rows: tokens, columns: rows };
    let out = y.view.clone();
    let check = move |found: &super::rig::Found| {
        let (got, x): (Vec<f32>, _) = (found.read(&out)?, found.rounded("quantised", &first)?);
        let mut pairs = Vec::new();
        for row in spread(rows, ROWS) {
            let w = pool.row(0, row);
            for token in spread(tokens, TOKENS) {
                let want =
                    twins::linear(&x[token * columns..][..columns], &w, columns, None, twins::Epilogue::Store)[0];
                pairs.push((got[token * rows + row], want));
            }
        }
        found.hold("y", &pairs)
    };
    let view = y.view.clone();
    let record = move |step: &mut crate::ops::Step, copy: usize| {
        let (x, matrix) = &inputs[copy];
        step.add_linear(&y, x, matrix, None)
    };
    Ok(Made::new(copies, tokens, 0, record, check).fresh(&view, &zeros))
}
