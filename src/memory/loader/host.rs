//! What the host reads itself: vectors, tables of ids, biases. Values that a model makes of them go to the device from here.

use super::{Host, Weights};
use crate::formats::Format;
use crate::gguf::TensorInfo;
use crate::gpu::View;
use crate::memory::{Error, Result};
use std::sync::Arc;

impl Weights<'_> {
    /// A value of its own; 1 at the first asking.
    pub fn scalar(&mut self, name: &str) -> Result<f32> {
        Ok(self.host_vector(name, 1)?.first().copied().unwrap_or(1.0))
    }

    /// A vector as f32 values on the host, empty at the first asking; the file may hold it as f32, f16 or bf16.
    pub fn host_vector(&mut self, name: &str, len: usize) -> Result<Vec<f32>> {
        let tensor = self.tensor(name, &[len])?;
        self.host_values(&tensor, len)
    }

    fn host_values(&mut self, tensor: &Arc<TensorInfo>, len: usize) -> Result<Vec<f32>> {
        let floats = [Format::F32, Format::F16, Format::BF16];
        let format = self.format(tensor)?;
        if !floats.contains(&format) {
            return Err(self.bad_type(tensor, "a vector", &floats));
        }
        let Some(bytes) = self.bytes(tensor) else { return Ok(Vec::new()) };
        let mut values = vec![0.0; len];
        format.decode(bytes, &mut values);
        Ok(values)
    }

    /// A tensor's bytes on the host, once they are read.
    fn bytes(&mut self, tensor: &Arc<TensorInfo>) -> Option<&[u8]> {
        match &mut self.host {
            Host::Wanted(tensors) => {
                tensors.push(tensor.clone());
                None
            }
            Host::Read(values) => Some(values.get(&tensor.name).expect("a model asks for the same again")),
        }
    }

    /// A vector as `f32 [len]` on the device.
    pub fn vector(&mut self, name: &str, len: usize) -> Result<View> {
        let values = self.host_vector(name, len)?;
        self.upload(name, &values)
    }

    /// What a model made of values that it read on the host.
    pub fn upload<T: bytemuck::NoUninit>(&self, name: &str, values: &[T]) -> Result<View> {
        match self.places(name) {
            false => Ok(View { size: size_of_val(values) as u64, ..self.nothing.clone() }),
            true => Ok(self.gpu.upload(name, values)?),
        }
    }

    /// Vectors [rows, len] as f32 values on the host, empty at the first asking.
    pub fn host_rows(&mut self, name: &str, rows: usize, len: usize) -> Result<Vec<f32>> {
        let tensor = self.tensor(name, &[len, rows])?;
        self.host_values(&tensor, rows * len)
    }

    /// A table of ids [rows, columns] on the device, u32. Each must be below `end`.
    pub fn ids(&mut self, name: &str, rows: usize, columns: usize, end: usize) -> Result<View> {
        let tensor = self.tensor(name, &[columns, rows])?;
        if tensor.type_name() != "i32" {
            let (name, found) = (name.into(), tensor.type_name().to_string());
            return Err(Error::Type { file: self.file(), name, found, wanted: "a table of ids; it reads i32".into() });
        }
        let ids: Vec<u32> = self.bytes(&tensor).map(bytemuck::pod_collect_to_vec).unwrap_or_default();
        // Negative ones are large here.
        if let Some(at) = ids.iter().position(|id| *id as usize >= end) {
            let (row, value) = (at / columns, ids[at] as i32);
            return Err(Error::Id { file: self.file(), name: name.into(), row, value, end });
        }
        self.upload(name, &ids)
    }

    /// Biases of experts' gate and up as f32 [experts, 2 * ff], those of the gate first.
    pub fn expert_gate_up_bias(&mut self, name: &str, up: &str, experts: usize, ff: usize) -> Result<View> {
        let (gate, up) = (self.host_rows(name, experts, ff)?, self.host_rows(up, experts, ff)?);
        let both: Vec<f32> = gate.chunks(ff).zip(up.chunks(ff)).flat_map(|(g, u)| [g, u].concat()).collect();
        self.upload(name, &both)
    }

    /// Biases of experts as f32 [experts, rows].
    pub fn expert_bias(&mut self, name: &str, experts: usize, rows: usize) -> Result<View> {
        let values = self.host_rows(name, experts, rows)?;
        self.upload(name, &values)
    }
}
