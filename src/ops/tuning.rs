//! Sizes of workgroups and tiles, by kind of device. What only a software device likes stays in its own row.

use crate::gpu::DeviceClass;

/// Sizes that kernels are compiled with.
#[derive(Debug)]
pub struct Tuning {
    /// Invocations of a mat-vec workgroup, and rows that it computes.
    pub matvec: (u32, u32),
    /// Invocations of a workgroup that normalises, rotates or embeds one row.
    pub row: u32,
    /// Invocations of an attention workgroup (and keys of its tile), and most query rows that share a reading of them.
    pub attention: (u32, u32),
    /// Parts into which decode cuts the keys.
    pub splits: u32,
    pub matmul: MatmulTile,
    /// Invocations of workgroups that sort, group or sample.
    pub wide: u32,
}

/// The tile of a matmul workgroup: rows by tokens, and what one invocation keeps of it.
#[derive(Clone, Copy, Debug)]
pub struct MatmulTile {
    pub bm: u32,
    pub bn: u32,
    pub tm: u32,
    pub tn: u32,
    /// Runs of 16 columns a step.
    pub runs: u32,
}

impl Tuning {
    /// The row of the table for a kind of device.
    pub fn of(class: DeviceClass) -> &'static Tuning {
        match class {
            DeviceClass::Gpu => &Tuning {
                matvec: (64, 4),
                row: 64,
                attention: (64, 8),
                splits: 64,
                matmul: MatmulTile { bm: 64, bn: 64, tm: 4, tn: 4, runs: 2 },
                wide: 256,
            },
            DeviceClass::Cpu => &Tuning {
                matvec: (8, 4),
                row: 8,
                attention: (8, 4),
                splits: 2,
                matmul: MatmulTile { bm: 32, bn: 16, tm: 8, tn: 4, runs: 2 },
                wide: 64,
            },
        }
    }
}
