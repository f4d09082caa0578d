//! Experts that come and go: is what the router chose in its slots? A step that misses one halts.

use super::{Result, Routing, Stack, Step, ensure};
use crate::gpu::{Call, Cost, Grid, KernelSpec, View, params};

params!(LookupParams { rows: u32, layer: u32 });

/// Most experts of a layer: `routed` may name each of them.
pub const MAX_EXPERTS: usize = 1024;
/// The shard of an expert that is in no slot.
pub const NOWHERE: u32 = u32::MAX;

/// What a lookup leaves for the host, as `shaders/expert_lookup.wgsl` lays it out.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Record {
    /// Experts that lookups without a miss needed, in all.
    pub found: u32,
    needed: [u32; MAX_EXPERTS / 32],
    /// Of the layer that halted: the clock of the last step that needed each expert.
    pub stamps: [u32; MAX_EXPERTS],
}

impl Record {
    /// The experts that the halted layer needs, whether they are there or not.
    pub fn needed(&self) -> impl Iterator<Item = u32> {
        let bit = |e: &u32| self.needed[*e as usize / 32] >> (e % 32) & 1 == 1;
        (0..MAX_EXPERTS as u32).filter(bit)
    }
}

impl Step<'_> {
    /// Where the lookups of the step report misses: a [`Record`].
    pub fn set_record(&mut self, record: View) {
        self.record = Some(record);
    }

    /// Halts the step unless all routed experts of a stack are in its slots; nothing where they always are.
    pub fn lookup(&mut self, routing: &Routing, stack: &Stack) -> Result<()> {
        let Some(stamps) = &stack.stamps else { return Ok(()) };
        let Some(record) = self.record.clone() else {
            return Err(super::Error::Shape { op: "lookup", message: "no record for misses".into() });
        };
        let slots = stack.slots();
        ensure(stack.experts <= MAX_EXPERTS, "lookup", || {
            format!("{} experts that come and go; at most {MAX_EXPERTS} are supported", stack.experts)
        })?;
        ensure(routing.ranks <= slots, "lookup", || format!("{} experts of a token in {slots} slots", routing.ranks))?;
        let rows = self.tokens * routing.ranks;
        Ok(self.recorder.call(Call {
            spec: KernelSpec::new("expert_lookup")
                .size("WG", self.tuning.wide)
                .size("EXPERTS", stack.experts as u32)
                .flag("STATE_WRITE", true),
            bind: &[("routed", &routing.routed), ("experts", &stack.table), ("stamps", stamps), ("record", &record)],
            params: LookupParams { rows: rows as u32, layer: self.recorder.layer() },
            grid: Grid([1, 1, 1]),
            cost: Cost { other_bytes: (rows * 4 + stack.experts * 12) as u64, ..Cost::default() },
        })?)
    }
}
