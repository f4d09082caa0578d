//! Sizes of workgroups and tiles, by kind of device. What only a software device likes stays in its own row.

use crate::gpu::DeviceClass;

/// Sizes that kernels are compiled with.
#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    /// Invocations of a mat-vec workgroup at least, and rows that it computes.
    pub matvec: (u32, u32),
    /// Invocations of a mat-vec in all that no more of them would gain by: about as many as a GPU runs at once.
    pub matvec_lanes: usize,
    /// The same of a mat-vec for several tokens.
    pub batch: (u32, u32),
    /// Invocations of a workgroup that normalises, rotates or embeds one row.
    pub row: u32,
    /// Invocations of an attention workgroup (and keys of its tile), and most query rows that share a reading of them.
    pub attention: (u32, u32),
    /// The same of latent attention, whose heads all read one key of 576 lanes.
    pub latent: (u32, u32),
    /// Its `splits`: the sums of one part are those of all heads, as many bytes as hundreds of keys.
    pub latent_splits: (u32, u32),
    /// Parts into which decode cuts the keys at most, and positions that each part is worth.
    pub splits: (u32, u32),
    pub matmul: MatmulTile,
    pub matrix: MatrixTile,
    /// Tokens of a step from which the delta rule goes in chunks of 32, by three dispatches in place of one.
    pub delta_chunked: usize,
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

/// The tile of a matmul workgroup of cooperative matrices, in fragments of one: rows by tokens.
#[derive(Clone, Copy, Debug)]
pub struct MatrixTile {
    pub strips: u32,
    pub fragments: u32,
    /// Runs of 16 columns a step.
    pub runs: u32,
    /// Of a workgroup, at the largest size that they may have.
    pub subgroups: u32,
}

/// By how much mat-vec workgroups may be larger than the least.
pub const MATVEC_WIDER: [u32; 2] = [2, 4];

impl Tuning {
    /// Parts into which decode cuts the keys of a cache that holds `positions`; 1 needs no combine.
    pub fn splits_for(&self, positions: usize, latent: bool) -> u32 {
        let (most, worth) = if latent { self.latent_splits } else { self.splits };
        positions.div_ceil(worth as usize).clamp(1, most as usize) as u32
    }

    /// Invocations of a mat-vec workgroup where there are `groups` of them, each with so many runs of 16 columns of its rows: so
    /// few rows that the device has room for more are read by more at once, a run by each at least.
    pub fn matvec_wg(&self, groups: usize, runs: usize) -> u32 {
        let gains = |wg: &u32| *wg as usize <= runs && groups * *wg as usize <= self.matvec_lanes;
        let (least, _) = self.matvec;
        MATVEC_WIDER.map(|times| times * least).into_iter().rfind(gains).unwrap_or(least)
    }

    /// The row of the table for a kind of device.
    pub fn of(class: DeviceClass) -> &'static Tuning {
        match class {
            DeviceClass::Gpu => &Tuning {
                matvec: (64, 4),
                // Strix Halo runs 82,000 at once, a 4090 197,000, an H100 270,000.
                matvec_lanes: 1 << 17,
                batch: (64, 4),
                row: 64,
                attention: (64, 8),
                latent: (128, 16),
                latent_splits: (16, 512),
                splits: (64, 64),
                matmul: MatmulTile { bm: 64, bn: 64, tm: 4, tn: 4, runs: 2 },
                matrix: MatrixTile { strips: 4, fragments: 8, runs: 1, subgroups: 2 },
                delta_chunked: 33,
                wide: 256,
            },
            // By measurement on lavapipe 22.3.6, two cores: a 4096 x 4096 q4_k mat-vec 10.3 ms (rows 4: 12.0, WG 64: 15.3);
            // 512 tokens through 1024 x 1024 q4_k 118 ms (64 x 64 tiles: 103, but experts seldom fill them; 32 x 16 with
            // 8 x 4 an invocation: 158); 64 tokens on 512 keys 73 ms (WG 8: 105). lavapipe stops an invocation after
            // 65,535 rounds of its loops in total, so a small WG also bounds the context of attention.
            DeviceClass::Cpu => &Tuning {
                matvec: (8, 8),
                matvec_lanes: 0,
                batch: (8, 4),
                row: 8,
                attention: (32, 8),
                latent: (32, 8),
                latent_splits: (4, 1024),
                splits: (4, 1024),
                matmul: MatmulTile { bm: 64, bn: 16, tm: 8, tn: 8, runs: 2 },
                matrix: MatrixTile { strips: 4, fragments: 4, runs: 2, subgroups: 1 },
                delta_chunked: 33,
                wide: 64,
            },
        }
    }
}
