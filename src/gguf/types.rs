//! The ggml tensor types: how many bytes a shape takes. How to decode them is the `formats` floor's business.

use super::TensorProblem;

/// A ggml tensor type: blocks of `block` values in `block_bytes` bytes.
struct GgmlType {
    number: u32,
    name: &'static str,
    block: u64,
    block_bytes: u64,
}

const fn ggml(number: u32, name: &'static str, block: u64, block_bytes: u64) -> GgmlType {
    GgmlType { number, name, block, block_bytes }
}

/// Every type that a file may hold, from ggml's `type_traits`. Numbers between were removed, and are refused.
const TYPES: [GgmlType; 34] = [
    ggml(0, "f32", 1, 4),
    ggml(1, "f16", 1, 2),
    ggml(2, "q4_0", 32, 18),
    ggml(3, "q4_1", 32, 20),
    ggml(6, "q5_0", 32, 22),
    ggml(7, "q5_1", 32, 24),
    ggml(8, "q8_0", 32, 34),
    ggml(9, "q8_1", 32, 36), // gguf-py says 40, from when its scale and sum were f32; ggml has them as f16.
    ggml(10, "q2_k", 256, 84),
    ggml(11, "q3_k", 256, 110),
    ggml(12, "q4_k", 256, 144),
    ggml(13, "q5_k", 256, 176),
    ggml(14, "q6_k", 256, 210),
    ggml(15, "q8_k", 256, 292),
    ggml(16, "iq2_xxs", 256, 66),
    ggml(17, "iq2_xs", 256, 74),
    ggml(18, "iq3_xxs", 256, 98),
    ggml(19, "iq1_s", 256, 50),
    ggml(20, "iq4_nl", 32, 18),
    ggml(21, "iq3_s", 256, 110),
    ggml(22, "iq2_s", 256, 82),
    ggml(23, "iq4_xs", 256, 136),
    ggml(24, "i8", 1, 1),
    ggml(25, "i16", 1, 2),
    ggml(26, "i32", 1, 4),
    ggml(27, "i64", 1, 8),
    ggml(28, "f64", 1, 8),
    ggml(29, "iq1_m", 256, 56),
    ggml(30, "bf16", 1, 2),
    ggml(34, "tq1_0", 256, 54),
    ggml(35, "tq2_0", 256, 66),
    ggml(39, "mxfp4", 32, 17),
    ggml(40, "nvfp4", 64, 36),
    ggml(41, "q1_0", 128, 18),
];

/// ggml's limit, `GGML_MAX_DIMS`.
const MAX_DIMS: u64 = 4;

fn find(number: u32) -> Option<&'static GgmlType> {
    TYPES.iter().find(|t| t.number == number)
}

/// The name of a ggml type as users know it, lower case: `q4_k`.
pub(super) fn name(number: u32) -> Option<&'static str> {
    find(number).map(|t| t.name)
}

/// Refuses more dimensions than ggml has.
pub(super) fn check_dim_count(found: u64) -> Result<(), TensorProblem> {
    if found > MAX_DIMS { Err(TensorProblem::TooManyDims { found, limit: MAX_DIMS }) } else { Ok(()) }
}

/// The bytes of a tensor of `dims`, innermost first. A row, `dims[0]` values, is whole blocks.
pub(super) fn tensor_bytes(ggml_type: u32, dims: &[u64]) -> Result<u64, TensorProblem> {
    let Some(t) = find(ggml_type) else { return Err(TensorProblem::UnknownType(ggml_type)) };
    check_dim_count(dims.len() as u64)?;
    if dims.contains(&0) {
        return Err(TensorProblem::Empty { dims: dims.into() });
    }
    let row = dims.first().copied().unwrap_or(1);
    if row % t.block != 0 {
        return Err(TensorProblem::PartialBlock { row, type_name: t.name, block: t.block });
    }
    let values = dims.iter().try_fold(1u64, |product, &dim| product.checked_mul(dim));
    values
        .and_then(|values| (values / t.block).checked_mul(t.block_bytes))
        .ok_or_else(|| TensorProblem::Overflow { dims: dims.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_ascend_so_none_stands_twice() {
        assert!(TYPES.is_sorted_by(|a, b| a.number < b.number));
    }

    #[test]
    fn bytes_are_of_whole_blocks_in_all_rows() {
        assert_eq!(tensor_bytes(12, &[512, 3, 5]), Ok(2 * 144 * 15));
        assert_eq!(tensor_bytes(0, &[]), Ok(4));
        let partial = TensorProblem::PartialBlock { row: 16, type_name: "q8_0", block: 32 };
        assert_eq!(tensor_bytes(8, &[16, 2]), Err(partial), "32 values, but no row is a block");
    }
}
