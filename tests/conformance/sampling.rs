use crate::rig::*;
pub fn cases(_: &mut Vec<Case>) {}
