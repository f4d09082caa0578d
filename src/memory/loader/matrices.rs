//! Matrices, alone and joined: rows of one format that read the same input lie in one.

use super::Weights;
use crate::memory::Result;
use crate::memory::copies::Rows;
use crate::ops::{GateUp, Joint, Matrix, Part};

/// Rows of a tensor, in runs: all of them, or the same part of every group, where a file interleaves two matrices.
pub struct Take<'n> {
    pub name: &'n str,
    /// Of the tensor: a multiple of `group`.
    pub rows: usize,
    /// Rows from one run to the next.
    pub group: usize,
    /// The first of a group that is taken, and how many.
    pub first: usize,
    pub run: usize,
}

impl<'n> Take<'n> {
    pub fn all(name: &'n str, rows: usize) -> Self {
        Take { name, rows, group: rows, first: 0, run: rows }
    }

    fn taken(&self) -> usize {
        self.rows / self.group * self.run
    }

    /// The first row of each run.
    fn runs(&self) -> impl Iterator<Item = usize> {
        (self.first..self.rows).step_by(self.group)
    }
}

impl Weights<'_> {
    /// A matrix [rows, columns].
    pub fn matrix(&mut self, name: &str, rows: usize, columns: usize) -> Result<Matrix> {
        let tensor = self.tensor(name, &[columns, rows])?;
        self.place_matrix(name, columns, &[Rows { tensor, first: 0, count: rows }])
    }

    fn place_matrix(&mut self, name: &str, columns: usize, parts: &[Rows]) -> Result<Matrix> {
        let format = self.format(&parts[0].tensor)?;
        let rows = parts.iter().map(|p| p.count).sum();
        let shards = self.resident(name, format, columns, parts, 1, Self::filled)?;
        Ok(Matrix { format, rows, columns, shards, stage: None })
    }

    /// Matrices [rows, columns] of one input, with a bias each if `bias` names them; rows of one format are joined.
    /// Also gives each matrix's first output.
    pub fn joint(&mut self, names: &[(&str, usize)], bias: &[&str], columns: usize) -> Result<(Joint, Vec<usize>)> {
        let takes: Vec<Take> = names.iter().map(|(name, rows)| Take::all(name, *rows)).collect();
        self.joint_of(&takes, bias, columns)
    }

    /// As [`Weights::joint`], of the rows of each tensor that are taken.
    pub fn joint_of(&mut self, takes: &[Take], bias: &[&str], columns: usize) -> Result<(Joint, Vec<usize>)> {
        let mut tensors = Vec::new();
        for take in takes {
            let tensor = self.tensor(take.name, &[columns, take.rows])?;
            tensors.push((self.format(&tensor)?, tensor, take));
        }
        let (mut parts, mut at, mut outputs) = (Vec::new(), vec![0; takes.len()], 0);
        for i in 0..tensors.len() {
            let format = tensors[i].0;
            if tensors[..i].iter().any(|t| t.0 == format) {
                continue;
            }
            let (first, mut rows, mut biases) = (outputs, Vec::new(), Vec::new());
            for (j, (_, tensor, take)) in tensors.iter().enumerate().filter(|(_, t)| t.0 == format) {
                at[j] = outputs;
                outputs += take.taken();
                rows.extend(take.runs().map(|first| Rows { tensor: tensor.clone(), first, count: take.run }));
                if let Some(bias) = bias.get(j) {
                    biases.extend(self.host_vector(bias, take.taken())?);
                }
            }
            let bias = if bias.is_empty() { None } else { Some(self.upload(takes[i].name, &biases)?) };
            parts.push(Part { matrix: self.place_matrix(takes[i].name, columns, &rows)?, bias, at: first });
        }
        Ok((Joint { parts, outputs }, at))
    }

    /// Gate and up [ff, columns], as one matrix where format and size allow.
    pub fn gate_up(&mut self, gate: &str, up: &str, ff: usize, columns: usize) -> Result<GateUp> {
        let (g, u) = (self.tensor(gate, &[columns, ff])?, self.tensor(up, &[columns, ff])?);
        let format = self.format(&g)?;
        let bytes = (format.device_row_bytes(columns) * 2 * ff) as u64;
        let apart = self.keeps_apart(gate, format, columns);
        if !apart && format == self.format(&u)? && bytes <= self.most() {
            let parts = [g, u].map(|tensor| Rows { tensor, first: 0, count: ff });
            return Ok(GateUp::Joined(self.place_matrix(gate, columns, &parts)?));
        }
        Ok(GateUp::Split { gate: self.matrix(gate, ff, columns)?, up: self.matrix(up, ff, columns)? })
    }
}
