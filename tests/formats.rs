//! Every format's scalar decoder against blocks that ggml decoded, and the rows laid out for the device.

use halogen::formats::Format;
use safetensors::SafeTensors;

/// `NAME.bytes` u8 [8, row bytes] and `NAME.values` f32 [8, 256] of every format, decoded by ggml's Python package.
const BLOCKS: &[u8] = include_bytes!("blocks.safetensors");

#[test]
fn decoders_match_ggml_bit_for_bit() {
    let blocks = SafeTensors::deserialize(BLOCKS).unwrap();
    for &format in Format::ALL {
        let bytes = blocks.tensor(&format!("{format}.bytes")).unwrap();
        let values = blocks.tensor(&format!("{format}.values")).unwrap();
        assert_eq!(bytes.shape(), [8, format.row_bytes(256)], "{format}");
        let mut decoded = vec![f32::NAN; 8 * 256];
        format.decode(bytes.data(), &mut decoded);
        for (i, (y, expected)) in decoded.iter().zip(values.data().chunks_exact(4)).enumerate() {
            assert_eq!(y.to_le_bytes(), expected, "{format}: value {i} is {y}");
        }
    }
}

#[test]
fn type_numbers_are_distinct_and_found() {
    for &format in Format::ALL {
        assert_eq!(Format::from_ggml(format.ggml()), Some(format));
    }
    // Q4_2, which ggml removed, and Q8_1 and Q8_K, which no file holds.
    for n in [4, 9, 15, u32::MAX] {
        assert_eq!(Format::from_ggml(n), None);
    }
}

#[test]
fn a_row_is_laid_out_in_planes() {
    let mut rows = [0; 2 * 36];
    for (i, b) in rows.iter_mut().enumerate() {
        *b = i as u8;
    }
    let mut out = [0xff; 2 * 48];
    assert_eq!(Format::Q4_0.device_row_bytes(64), 48);
    Format::Q4_0.relay(64, &rows, &mut out);
    for (row, first) in out.chunks_exact(48).zip([0, 36]) {
        let quants = (2..18).chain(20..36);
        let scales = [0, 1, 18, 19];
        let expected = quants.chain(scales).map(|i| first + i).chain([0; 12]);
        assert!(expected.eq(row.iter().copied()), "{row:?}");
    }
}

#[test]
fn every_byte_is_laid_out_once_and_the_padding_is_zero() {
    for &format in Format::ALL {
        for columns in [format.block(), 4 * format.block(), 2048] {
            let row = (0..format.row_bytes(columns)).map(|i| i as u8 | 1).collect::<Vec<_>>();
            let mut out = vec![0xff; format.device_row_bytes(columns)];
            assert_eq!(out.len() % 16, 0, "{format}");
            format.relay(columns, &row, &mut out);
            assert!(out[row.len()..].iter().all(|&b| b == 0), "{format}: padding of {columns} columns");
            let count = |bytes: &[u8], b| bytes.iter().filter(|&&x| x == b).count();
            for b in 1..=255 {
                assert_eq!(count(&out[..row.len()], b), count(&row, b), "{format}: byte {b} of {columns} columns");
            }
        }
    }
}
