//! Each way in which a file can be wrong, and what is said about it.

use halogen::gguf::{Gguf, Metadata};

use crate::sample::{self, by_hand, refusal, string};

#[track_caller]
fn refused(bytes: Vec<u8>, expected: &str) {
    let refusal = refusal(bytes);
    assert!(refusal.starts_with("model.gguf: ") && refusal.contains(expected), "{refusal}");
}

/// One pair: key `k`, a value type, the value's bytes.
fn pair(value_type: u32, value: &[u8]) -> Vec<u8> {
    [&string(b"k"), value_type.to_le_bytes().as_slice(), value].concat()
}

/// A row of the tensor table.
fn row(name: &[u8], dims: &[u64], ggml_type: u32, offset: u64) -> Vec<u8> {
    let mut row = string(name);
    row.extend_from_slice(&(dims.len() as u32).to_le_bytes());
    row.extend(dims.iter().flat_map(|dim| dim.to_le_bytes()));
    row.extend_from_slice(&ggml_type.to_le_bytes());
    row.extend_from_slice(&offset.to_le_bytes());
    row
}

/// A file of these rows, with 128 bytes of tensor data.
fn table(rows: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = by_hand(3, rows.len() as u64, 0, &[&rows.concat()]);
    bytes.resize(bytes.len().next_multiple_of(32) + 128, 0);
    bytes
}

#[test]
fn other_formats_are_recognised() {
    refused(vec![], "not a GGUF file: it is empty");
    refused(b"PK\x03\x04rest".to_vec(), "a zip archive, as PyTorch");
    refused(b"\x80\x02\x8a\x0a".to_vec(), "a Python pickle");
    refused(b"tjgg\x01\0\0\0".to_vec(), "GGJT");
    refused(b"lmgg\x01\0\0\0".to_vec(), "GGML");
    refused(b"\x40\x01\0\0\0\0\0\0{\"a\":1}".to_vec(), "safetensors");
    refused(b"<!DOCTYPE html>".to_vec(), "a web page");
    refused(b"version https://git-lfs.github.com/spec/v1\n".to_vec(), "Git LFS pointer");
    refused(vec![0; 64], "an unfinished download");
    refused(b"\x1b[31mhi!".to_vec(), r#"it starts with "\x1b[31mhi!""#);
    refused(b"GGU".to_vec(), r#"it starts with "GGU""#);
}

#[test]
fn other_versions_are_named() {
    refused(by_hand(1, 0, 0, &[]), "GGUF version 1; versions 2 and 3 can be read");
    refused(by_hand(4, 0, 0, &[]), "GGUF version 4;");
    refused(by_hand(0, 0, 0, &[]), "GGUF version 0;");
    refused(by_hand(3u32.swap_bytes(), 0, 0, &[]), "a big-endian GGUF file (version field 0x03000000)");
}

#[test]
fn lengths_past_the_end_say_where_and_what() {
    refused(
        b"GGUF\x03\0".to_vec(),
        "truncated or corrupt: the magic and version, at byte 4, needs 4 bytes, and 2 are left",
    );
    refused(by_hand(3, 0, u64::MAX, &[]), "the metadata, at byte 24, needs 18446744073709551615 bytes, and 0 are left");
    refused(by_hand(3, 2, 0, &[]), "the tensor table, at byte 24, needs 48 bytes, and 0 are left");
    refused(by_hand(3, 0, 1, &[&u64::MAX.to_le_bytes(), &[0; 8]]), "metadata key 0, at byte 32, needs 184467");
    refused(by_hand(3, 0, 1, &[&pair(8, &99u64.to_le_bytes())]), "the value of key k, at byte 45, needs 99 bytes");
    let array = |element: u32, count: u64| {
        by_hand(3, 0, 1, &[&pair(9, &[element.to_le_bytes().as_slice(), &count.to_le_bytes()].concat())])
    };
    refused(array(4, 1 << 62), "the value of key k, at byte 49, needs 18446744073709551615 bytes, and 0 are left");
    refused(array(8, 1 << 40), "the value of key k, at byte 49, needs 8796093022208 bytes");
    refused(array(9, 1 << 40), "the value of key k, at byte 49, needs 13194139533312 bytes");
    refused(array(7, 5), "the value of key k, at byte 49, needs 5 bytes");
    let mut cut = row(b"a", &[1, 1, 1, 1], 0, 0);
    cut.truncate(cut.len() - 1);
    refused(
        by_hand(3, 1, 0, &[&cut]),
        "the shape, type and offset of tensor a, at byte 73, needs 8 bytes, and 7 are left",
    );
}

#[test]
fn bad_metadata_is_named() {
    refused(by_hand(3, 0, 1, &[&pair(13, &[0; 8])]), "key k: unknown value type 13");
    refused(by_hand(3, 0, 1, &[&pair(9, &[99, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])]), "key k: unknown value type 99");
    refused(by_hand(3, 0, 1, &[&pair(7, &[2])]), "key k: 2 is no bool");
    refused(by_hand(3, 0, 2, &[&pair(0, &[1]), &pair(0, &[1])]), "key k: stands twice in the file");
    refused(by_hand(3, 0, 1, &[&string(b"k\xff"), &[0; 5]]), "key k\u{fffd}: the key is not UTF-8");
}

#[test]
fn nesting_is_bounded() {
    let nested = |depth: usize| {
        let shell = [9u32.to_le_bytes().as_slice(), &1u64.to_le_bytes()].concat();
        let core = [4u32.to_le_bytes().as_slice(), &0u64.to_le_bytes()].concat();
        by_hand(3, 0, 1, &[&pair(9, &[shell.repeat(depth - 1), core].concat())])
    };
    Gguf::from_bytes("model.gguf", nested(4)).unwrap();
    refused(nested(5), "key k: arrays nest deeper than 4, this reader's limit");
    refused(nested(100_000), "key k: arrays nest deeper than 4, this reader's limit");
}

#[test]
fn alignment_is_bounded() {
    for alignment in [0u32, 4, 24, 1 << 22] {
        let value = [&string(b"general.alignment"), 4u32.to_le_bytes().as_slice(), &alignment.to_le_bytes()].concat();
        let expected = format!("key general.alignment: {alignment} is no alignment; a power of two from 8 to 2097152");
        refused(by_hand(3, 0, 1, &[&value]), &expected);
    }
    let mut metadata = Metadata::new();
    metadata.insert("general.alignment", "32".into());
    let error = halogen::gguf::Writer::new(&metadata).err().unwrap().to_string();
    assert!(error.contains("key general.alignment: expected u64, found string"), "{error}");
}

#[test]
fn bad_tensors_are_named() {
    let max = u64::MAX;
    refused(table(&[row(b"t", &[1], 4, 0)]), "tensor t: unknown ggml type 4");
    refused(table(&[row(b"t", &[1], 999, 0)]), "tensor t: unknown ggml type 999");
    refused(table(&[row(b"t", &[1; 5], 0, 0)]), "tensor t: 5 dimensions; ggml's limit is 4");
    refused(table(&[row(b"t", &[4, 0], 0, 0)]), "tensor t: shape [4, 0] (innermost first) has a dimension of 0");
    refused(table(&[row(b"t", &[1 << 32, 1 << 32], 0, 0)]), "tensor t: shape [4294967296, 4294967296]");
    refused(table(&[row(b"t", &[1 << 63], 0, 0)]), "(innermost first) overflows 64 bits");
    refused(table(&[row(b"t", &[128, 2], 12, 0)]), "rows of 128 values are no multiple of q4_k's block of 256");
    refused(table(&[row(b"t", &[1], 0, 8)]), "tensor t: offset 8 is no multiple of the alignment, 32");
    refused(
        table(&[row(b"t", &[33], 0, 0)]),
        "132 bytes at offset 0 of the tensor data, which starts at byte 64, end past",
    );
    refused(table(&[row(b"t", &[1], 0, max - 31)]), "4 bytes at offset 18446744073709551584 of the tensor data");
    refused(table(&[row(b"t", &[max / 4], 0, 32)]), "end past the file's 192 (an incomplete download?)");
    refused(table(&[row(b"t", &[9], 0, 0), row(b"u", &[1], 0, 32)]), "tensor u: overlaps tensor t");
    refused(table(&[row(b"t", &[1], 0, 0), row(b"t", &[1], 0, 32)]), "tensor t: stands twice, first in model.gguf");
    refused(table(&[row(b"t\xff", &[1], 0, 0)]), "tensor t\u{fffd}: the name is not UTF-8");
}

#[test]
fn names_are_shown_without_control_characters_and_shortened() {
    refused(table(&[row(b"\x1b[2Jt", &[1], 4, 0)]), r"tensor \u{1b}[2Jt: unknown");
    let long = refusal(table(&[row(&[b'x'; 5000], &[1], 4, 0)]));
    assert!(long.len() < 300 && long.contains("xxx…: unknown ggml type 4"), "{long}");
}

#[test]
fn every_truncation_is_an_error() {
    let whole = sample::file();
    let data_end =
        Gguf::from_bytes("model.gguf", whole.clone()).unwrap().tensors().iter().map(|t| t.offset + t.bytes).max();
    for len in 0..data_end.unwrap() as usize {
        let refusal = refusal(whole[..len].to_vec());
        assert!(refusal.starts_with("model.gguf: "), "{len}: {refusal}");
    }
}

#[test]
fn what_the_system_refuses_is_said() {
    let folder = sample::folder("system");
    let refusal = Gguf::open(&folder.join("absent.gguf")).unwrap_err().to_string();
    assert!(refusal.starts_with("absent.gguf: cannot open "), "{refusal}");
    let refusal = Gguf::open(&folder).unwrap_err().to_string();
    assert!(refusal.starts_with("gguf-system: cannot open "), "{refusal}");
}

#[test]
fn a_file_that_shrinks_after_opening_is_an_error() {
    let path = sample::folder("shrinks").join("model.gguf");
    std::fs::write(&path, sample::file()).unwrap();
    let gguf = Gguf::open(&path).unwrap();
    std::fs::File::options().write(true).open(&path).unwrap().set_len(100).unwrap();
    let tensor = gguf.tensor("ffn.weight").unwrap();
    let error = gguf.blocking_read(tensor, 2, &mut [0; 10]).unwrap_err().to_string();
    assert!(error.starts_with("model.gguf: tensor ffn.weight: reading 10 bytes at 2: "), "{error}");
}
