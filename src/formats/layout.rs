//! How a row of weights lies on the device.

use super::{Format, RUN};

impl Format {
    /// Bytes of a block in the first plane of a row on the device.
    pub fn body_bytes(self) -> usize {
        self.facts().planes[0].1
    }

    /// Bytes from one row to the next on the device: the row, padded to whole runs, then to 16 bytes.
    pub fn device_row_bytes(self, columns: usize) -> usize {
        self.row_bytes(columns.next_multiple_of(RUN.max(self.block()))).next_multiple_of(16)
    }

    /// Whether rows lie on the device as in a file.
    pub fn lies_as_in_files(self, columns: usize) -> bool {
        self.facts().planes.len() == 1 && self.row_bytes(columns) == self.device_row_bytes(columns)
    }

    /// Lays rows out as shaders read them: `rows` is n rows as in a file, `out` n times
    /// [`Format::device_row_bytes`].
    ///
    /// Most blocks are no multiple of 4 bytes, and few are of 16, so shaders could not load them in whole words. A
    /// row is therefore cut into planes: one range of bytes of every block, then the next range of every block, and so
    /// on, then zeros. The first plane holds the quants, in 16 byte quads where a format allows it. A format whose
    /// block is quads already has one plane: its rows lie as in the file.
    pub fn relay(self, columns: usize, rows: &[u8], out: &mut [u8]) {
        let (row_bytes, device_row_bytes) = (self.row_bytes(columns), self.device_row_bytes(columns));
        assert_eq!(
            (rows.len() % row_bytes, out.len()),
            (0, rows.len() / row_bytes * device_row_bytes),
            "{self}: rows of {row_bytes} bytes to rows of {device_row_bytes}"
        );
        for (row, out) in rows.chunks_exact(row_bytes).zip(out.chunks_exact_mut(device_row_bytes)) {
            let (planes, padding) = out.split_at_mut(row_bytes);
            padding.fill(0);
            let mut rest = planes;
            for &(offset, bytes) in self.facts().planes {
                let (plane, after) = rest.split_at_mut(row_bytes / self.block_bytes() * bytes);
                copy_plane(row, self.block_bytes(), offset, bytes, plane);
                rest = after;
            }
        }
    }
}

/// Copies `bytes` bytes at `offset` of every block. Sizes known to the compiler become plain moves: q4_0 is laid out at
/// 10 GB/s on one core, and at 3 GB/s with a call of memcpy for each quad and each scale.
fn copy_plane(row: &[u8], block_bytes: usize, offset: usize, bytes: usize, plane: &mut [u8]) {
    fn fixed<const BYTES: usize>(row: &[u8], block_bytes: usize, offset: usize, plane: &mut [u8]) {
        for (block, out) in row.chunks_exact(block_bytes).zip(plane.as_chunks_mut::<BYTES>().0) {
            out.copy_from_slice(&block[offset..offset + BYTES]);
        }
    }
    match bytes {
        _ if bytes == block_bytes => plane.copy_from_slice(row),
        1 => fixed::<1>(row, block_bytes, offset, plane),
        2 => fixed::<2>(row, block_bytes, offset, plane),
        4 => fixed::<4>(row, block_bytes, offset, plane),
        8 => fixed::<8>(row, block_bytes, offset, plane),
        16 => fixed::<16>(row, block_bytes, offset, plane),
        32 => fixed::<32>(row, block_bytes, offset, plane),
        _ => {
            for (block, out) in row.chunks_exact(block_bytes).zip(plane.chunks_exact_mut(bytes)) {
                out.copy_from_slice(&block[offset..offset + bytes]);
            }
        }
    }
}
