//! The GGUF block formats: geometry, and the scalar decoder that every shader is held against.
//!
//! A format is one row of [`FORMATS`], one decoder here and one snippet in `shaders/formats/`.

/// How the weights of a tensor are stored: blocks of `block` values in `block_bytes` bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    F32,
    F16,
    BF16,
    Q4_0,
    Q8_0,
    Q4K,
    Q5K,
    Q6K,
}

/// The facts of one format that are not code.
pub struct Facts {
    pub format: Format,
    /// ggml's type number, as a GGUF tensor names it.
    pub ggml: u32,
    /// The name users know, lower case: `q4_k`.
    pub name: &'static str,
    /// Values a block.
    pub block: usize,
    /// Bytes a block, as in a file.
    pub block_bytes: usize,
    /// Bytes of a block that would leave the rest unaligned to words: (offset, bytes). Rows are re-laid at load as
    /// the rest of every block, then these bytes of every block. `None`: the blocks are words already.
    pub tail: Option<(usize, usize)>,
    /// Decodes one block: `block_bytes` bytes to `block` values.
    pub decode: fn(&[u8], &mut [f32]),
    /// The WGSL that decodes 16 values, composed into operators by `#import format`.
    pub wgsl: &'static str,
}
