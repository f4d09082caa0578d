//! The state of a step, as `shaders/lib/state.wgsl` lays it out.

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// The model sampled a token that ends its answer.
    EndToken,
    /// As many tokens as were asked for.
    Limit,
    /// The context is full.
    ContextFull,
}

/// Most tokens that end an answer.
pub const MAX_STOPS: usize = 32;

/// Read by every kernel, advanced by the sampling kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct State {
    pub halt: u32,
    pub halt_layer: u32,
    /// Tokens whose keys and values are cached before the step.
    pub position: u32,
    /// Positions that the cache holds.
    pub context: u32,
    /// Tokens sampled since the prompt.
    pub generated: u32,
    pub limit: u32,
    /// The token sampled last.
    pub last: u32,
    pub top_k: u32,
    pub temperature: f32,
    pub top_p: f32,
    pub min_p: f32,
    pub repeat_penalty: f32,
    pub repeat_last: u32,
    pub seed: u32,
    pub stop_count: u32,
    /// Steps so far: the age of experts in their slots.
    pub clock: u32,
    pub stops: [u32; MAX_STOPS],
}

impl State {
    /// Why the generation ended, if it did.
    pub fn stop_reason(&self) -> Option<StopReason> {
        match self.halt {
            1 => Some(StopReason::EndToken),
            2 => Some(StopReason::Limit),
            3 => Some(StopReason::ContextFull),
            _ => None,
        }
    }

    /// Whether the step halted for want of an expert.
    pub fn missed(&self) -> bool {
        self.halt == 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::{KernelSpec, compose};

    #[test]
    fn lies_as_the_shaders_declare_it() {
        let spec = KernelSpec::new("sample").size("WG", 64).flag("STATE_WRITE", true);
        let module = naga::front::wgsl::parse_str(&compose(&spec).unwrap().wgsl).unwrap();
        let (_, ty) = module.types.iter().find(|(_, t)| t.name.as_deref() == Some("State")).unwrap();
        let naga::TypeInner::Struct { members, span } = &ty.inner else { panic!("State is a struct") };
        assert_eq!(*span as usize, size_of::<State>());
        let at = |name: &str| members.iter().find(|m| m.name.as_deref() == Some(name)).unwrap().offset as usize;
        assert_eq!(at("position"), std::mem::offset_of!(State, position));
        assert_eq!(at("temperature"), std::mem::offset_of!(State, temperature));
        assert_eq!(at("seed"), std::mem::offset_of!(State, seed));
        assert_eq!(at("stop"), std::mem::offset_of!(State, stops));
    }
}
