//! Stacks: experts, resident or in slots, and heads and groups of which each token reads all.

use super::{Make, Weights};
use crate::formats::Format;
use crate::gguf::TensorInfo;
use crate::memory::Result;
use crate::memory::budget::{ExpertMemory, layer_of};
use crate::memory::copies::Rows;
use crate::memory::slots::{Slots, Slotted};
use crate::ops::{ExpertGateUp, NOWHERE, Stack, shards_at_once};
use std::sync::Arc;

/// The experts of a stack's tensor one by one, and the shared one behind them.
fn expert_rows(tensors: &[Arc<TensorInfo>], experts: usize, rows: usize) -> Vec<Rows> {
    let routed = (0..experts).map(|e| Rows { tensor: tensors[0].clone(), first: e * rows, count: rows });
    routed.chain(tensors.get(1).map(|tensor| Rows { tensor: tensor.clone(), first: 0, count: rows })).collect()
}

impl Weights<'_> {
    /// A stack [experts, rows, columns]; a `shared` matrix [rows, columns] of the same type is the last expert.
    pub fn stack(
        &mut self,
        name: &str,
        shared: Option<&str>,
        experts: usize,
        rows: usize,
        columns: usize,
    ) -> Result<Stack> {
        let tensors = self.experts(name, shared, experts, rows, columns)?;
        let parts: Vec<Rows> = tensors
            .into_iter()
            .zip([experts * rows, rows])
            .map(|(tensor, count)| Rows { tensor, first: 0, count })
            .collect();
        self.place_stack(name, columns, &parts, rows)
    }

    /// The tensor of a stack [experts, rows, columns], and that of the shared expert.
    fn experts(
        &mut self,
        name: &str,
        shared: Option<&str>,
        experts: usize,
        rows: usize,
        columns: usize,
    ) -> Result<Vec<Arc<TensorInfo>>> {
        let routed = self.tensor(name, &[columns, rows, experts])?;
        let shared = shared.map(|name| self.tensor(name, &[columns, rows])).transpose()?;
        Ok(std::iter::once(routed).chain(shared).collect())
    }

    /// The stacks of gate and up [experts, ff, columns], expert by expert in one where format and size allow; with the
    /// gate and up of a `shared` expert as in [`Weights::stack`].
    pub fn expert_gate_up(
        &mut self,
        [gate, up]: [&str; 2],
        shared: Option<[&str; 2]>,
        experts: usize,
        ff: usize,
        columns: usize,
    ) -> Result<ExpertGateUp> {
        let [shared_gate, shared_up] = [shared.map(|s| s[0]), shared.map(|s| s[1])];
        let gates = self.experts(gate, shared_gate, experts, ff, columns)?;
        let ups = self.experts(up, shared_up, experts, ff, columns)?;
        let [gates, ups] = [&gates, &ups].map(|tensors| expert_rows(tensors, experts, ff));
        let format = self.format(&gates[0].tensor)?;
        let bytes = (format.device_row_bytes(columns) * 2 * ff) as u64;
        let apart = self.keeps_apart(gate, format, columns);
        if apart || format != self.format(&ups[0].tensor)? || bytes > self.most() {
            let gate = self.place_stack(gate, columns, &gates, ff)?;
            return Ok(ExpertGateUp::Split { gate, up: self.place_stack(up, columns, &ups, ff)? });
        }
        let parts: Vec<Rows> = gates.into_iter().zip(ups).flat_map(|(gate, up)| [gate, up]).collect();
        Ok(ExpertGateUp::Joined(self.place_stack(gate, columns, &parts, 2 * ff)?))
    }

    /// As [`Weights::expert_gate_up`], of a file that holds gate and up as one stack [experts, 2 * ff, columns], gate rows
    /// first.
    pub fn fused_gate_up(
        &mut self,
        name: &str,
        shared: Option<[&str; 2]>,
        experts: usize,
        ff: usize,
        columns: usize,
    ) -> Result<ExpertGateUp> {
        let fused = self.tensor(name, &[columns, 2 * ff, experts])?;
        let shared = shared.map(|names| names.map(|name| self.tensor(name, &[columns, ff])));
        let shared: Vec<_> = shared.into_iter().flatten().collect::<Result<_>>()?;
        let mut parts = vec![Rows { tensor: fused, first: 0, count: experts * 2 * ff }];
        parts.extend(shared.into_iter().map(|tensor| Rows { tensor, first: 0, count: ff }));
        Ok(ExpertGateUp::Joined(self.place_stack(name, columns, &parts, 2 * ff)?))
    }

    fn place_stack(&mut self, name: &str, columns: usize, parts: &[Rows], rows: usize) -> Result<Stack> {
        let format = self.format(&parts[0].tensor)?;
        let experts = parts.iter().map(|part| part.count).sum::<usize>() / rows;
        let expert_bytes = (format.device_row_bytes(columns) * rows) as u64;
        let layer = layer_of(name).unwrap_or(u32::MAX);
        let slots = match self.experts.filter(|_| self.places(name)) {
            Some(ExpertMemory { shared: Some(slot), .. }) => {
                let count = self.experts.map_or(experts, |memory| memory.slots(layer, experts));
                // No more shards than any kernel binds: what is recorded must not depend on the budget.
                let most = shards_at_once(self.gpu.caps().storage_buffers, Format::IQ1S, 6);
                self.store.shared_slots(name, expert_bytes, count, slot, most)?
            }
            Some(memory) if memory.slots(layer, experts) < experts => Slots {
                shards: self.shards(name, expert_bytes, memory.slots(layer, experts), Self::buffer)?,
                stride: expert_bytes,
            },
            _ => {
                let filled = if self.reads_in_place(name) { Self::filled_on_host } else { Self::filled };
                return self.resident_stack(name, columns, parts, rows, filled);
            }
        };
        let table = self.gpu.upload("expert table", &vec![[NOWHERE, 0]; experts])?;
        let stamps = self.store.add(name, experts, Slotted::new(format, columns, rows, parts, &slots, &table))?;
        let Slots { shards, stride } = slots;
        Ok(Stack { format, experts, rows, columns, shards, stride, table, stamps: Some(stamps) })
    }

    /// A stack [heads, rows, columns] of which each token reads all.
    pub fn heads(&mut self, name: &str, heads: usize, rows: usize, columns: usize) -> Result<Stack> {
        let tensor = self.tensor(name, &[columns, rows, heads])?;
        self.in_order(name, tensor, heads, rows, columns)
    }

    /// As [`Weights::heads`], of a matrix [groups * rows, columns] whose runs of `rows` rows have an input each.
    pub fn groups(&mut self, name: &str, groups: usize, rows: usize, columns: usize) -> Result<Stack> {
        let tensor = self.tensor(name, &[columns, groups * rows])?;
        self.in_order(name, tensor, groups, rows, columns)
    }

    fn in_order(
        &mut self,
        name: &str,
        tensor: Arc<TensorInfo>,
        heads: usize,
        rows: usize,
        columns: usize,
    ) -> Result<Stack> {
        self.resident_stack(name, columns, &[Rows { tensor, first: 0, count: heads * rows }], rows, Self::filled)
    }

    /// A stack that lies in shards as in the file.
    fn resident_stack(
        &mut self,
        name: &str,
        columns: usize,
        parts: &[Rows],
        rows: usize,
        filled: Make<Self>,
    ) -> Result<Stack> {
        let format = self.format(&parts[0].tensor)?;
        let shards = self.resident(name, format, columns, parts, rows, filled)?;
        let experts = shards.iter().map(|shard| shard.count).sum();
        let mut table = Vec::with_capacity(experts);
        for (index, shard) in shards.iter().enumerate() {
            table.extend((0..shard.count).map(|slot| [index as u32, slot as u32]));
        }
        let table = if self.places(name) { self.gpu.upload("expert table", &table)? } else { self.nothing.clone() };
        let stride = (format.device_row_bytes(columns) * rows) as u64;
        Ok(Stack { format, experts, rows, columns, shards, stride, table, stamps: None })
    }
}
