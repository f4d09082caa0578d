//! Well-formed files: what was written is what is read.

use std::path::Path;

use halogen::gguf::{Gguf, Metadata, Value, Writer};

use crate::sample;

#[test]
fn what_the_writer_wrote_is_read_back() {
    let bytes = sample::file();
    let gguf = Gguf::from_bytes("model.gguf", bytes.clone()).unwrap();
    assert_eq!((gguf.name(), gguf.version(), gguf.architecture().unwrap()), ("model.gguf", 3, "llama"));
    let written = sample::metadata();
    let pairs: Vec<(&str, &Value)> = gguf.metadata().iter().collect();
    assert_eq!(pairs, written.iter().collect::<Vec<_>>());

    let matrix = gguf.tensor("ffn.weight").unwrap();
    assert_eq!((matrix.dims.as_slice(), matrix.type_name(), matrix.bytes), ([64, 2].as_slice(), "q8_0", 4 * 34));
    assert_eq!(gguf.data_bytes(), 12 + 4 * 34 + 2);
    let names: Vec<&str> = gguf.tensors().iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["norm.weight", "ffn.weight", "scale"]);
    assert_eq!(gguf.tensor("no.such"), None);

    let mut part = [0; 3];
    gguf.blocking_read(matrix, 34, &mut part).unwrap();
    assert_eq!(part, [34, 35, 36]);
    assert_eq!(&bytes[matrix.offset as usize + 34..][..3], part);
    gguf.blocking_read(matrix, matrix.bytes, &mut []).unwrap();
    let error = gguf.blocking_read(matrix, 134, &mut part).unwrap_err().to_string();
    assert_eq!(error, "model.gguf: tensor ffn.weight: reading 3 bytes at 134 passes the end of its 136");
}

#[test]
fn version_2_is_read() {
    let mut bytes = sample::file();
    bytes[4] = 2;
    assert_eq!(Gguf::from_bytes("model.gguf", bytes).unwrap().version(), 2);
}

#[test]
fn alignment_is_obeyed() {
    let mut metadata = Metadata::new();
    metadata.insert("general.alignment", 4096u32.into());
    let gguf =
        Gguf::from_bytes("m", sample::write(&metadata, &[("a", &[1], 24, &[1]), ("b", &[1], 24, &[2])])).unwrap();
    assert_eq!(gguf.tensors().iter().map(|t| t.offset).collect::<Vec<_>>(), [4096, 8192]);
}

#[test]
fn a_scalar_is_a_row_of_one() {
    let row = [sample::string(b"s"), 0u32.to_le_bytes().into(), 24u32.to_le_bytes().into(), vec![0; 8]].concat();
    let mut bytes = sample::by_hand(3, 1, 0, &[&row]);
    bytes.resize(65, 9);
    let gguf = Gguf::from_bytes("m", bytes).unwrap();
    assert_eq!((gguf.tensors()[0].dims.as_slice(), gguf.tensors()[0].bytes), ([1].as_slice(), 1));
}

#[test]
fn typed_getters_convert_what_fits() {
    let m = sample::metadata();
    for (key, expected) in [("t.u8", 200), ("t.u16", 60_000), ("t.u32", 4_000_000_000)] {
        assert_eq!(m.u32(key).unwrap(), Some(expected));
        assert_eq!(m.u64(key).unwrap(), Some(expected.into()));
    }
    assert_eq!(m.u64("t.u64").unwrap(), Some(u64::MAX));
    assert_eq!(m.f32("t.f64").unwrap(), Some(0.1));
    assert_eq!(m.f32("t.i8").unwrap(), Some(-100.0));
    assert_eq!(m.bool("t.bool").unwrap(), Some(true));
    assert_eq!(m.str("t.empty").unwrap(), Some(""));
    assert_eq!(m.bytes("t.bytes").unwrap(), Some(b"\xffabc".as_slice()));
    assert_eq!(m.strings("t.tokens").unwrap().unwrap(), [b"a".as_slice(), b"", b"\xf0\x9f", b"end"]);
    assert_eq!(m.u32s("t.i64s").unwrap(), Some(vec![7, 8]));
    assert_eq!(m.i32s("t.i8s").unwrap(), Some(vec![-1, 2]));
    assert_eq!(m.f32s("t.f64s").unwrap(), Some(vec![0.5]));
    assert_eq!(m.f32s("t.u8s").unwrap(), Some(vec![1.0, 2.0, 3.0]));
    assert_eq!(m.bools("t.bools").unwrap(), Some(vec![true, false]));
    assert_eq!(m.u32("absent").unwrap(), None);
    assert_eq!(m.strings("absent").unwrap(), None);
}

#[test]
fn typed_getters_name_what_does_not_fit() {
    let m = sample::metadata();
    let cases = [
        (m.u32("t.i8").unwrap_err(), "metadata: key t.i8: -100 does not fit in u32"),
        (m.u32("t.f32").unwrap_err(), "metadata: key t.f32: expected u32, found f32"),
        (m.u64("t.tokens").unwrap_err(), "metadata: key t.tokens: expected u64, found array of string"),
        (m.f32("t.bool").unwrap_err(), "metadata: key t.bool: expected f32, found bool"),
        (m.str("t.bytes").unwrap_err(), "metadata: key t.bytes: the string is not UTF-8 (first bad byte at 0)"),
        (m.str("t.u8").unwrap_err(), "metadata: key t.u8: expected string, found u8"),
        (m.i32s("t.u32s").unwrap_err(), "metadata: key t.u32s: element 1 is 4294967295, which does not fit in i32"),
        (m.u32s("t.u32").unwrap_err(), "metadata: key t.u32: expected array of u32, found u32"),
        (m.require_u32("absent").unwrap_err(), "metadata: key absent: missing"),
        (m.require_str("absent").unwrap_err(), "metadata: key absent: missing"),
    ];
    for (error, expected) in cases {
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn inserting_again_keeps_the_place() {
    let mut metadata = sample::metadata();
    metadata.insert("general.architecture", "gemma3".into());
    assert_eq!(metadata.iter().next(), Some(("general.architecture", &"gemma3".into())));
    assert_eq!(metadata.len(), sample::metadata().len());
}

#[test]
fn the_writer_refuses_what_the_reader_would() {
    let metadata = Metadata::new();
    let mut writer = Writer::new(&metadata).unwrap();
    writer.tensor("a", &[2], 0, &[0; 8]).unwrap();
    let cases = [
        (writer.tensor("a", &[2], 0, &[0; 8]).unwrap_err(), "new file: tensor a: stands twice"),
        (writer.tensor("b", &[2], 0, &[0; 7]).unwrap_err(), "tensor b: 7 bytes given, its shape and type make 8"),
        (writer.tensor("b", &[31], 8, &[]).unwrap_err(), "rows of 31 values are no multiple of q8_0's block of 32"),
        (writer.tensor("b", &[1; 5], 0, &[0; 4]).unwrap_err(), "5 dimensions; ggml's limit is 4"),
    ];
    for (error, expected) in cases {
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn the_embedded_model_is_read() {
    static MODEL: &[u8] = include_bytes!("../../assets/rust-docs-moe-q4_k_m.gguf");
    let gguf = Gguf::from_static("demo", MODEL).unwrap();
    assert_eq!(gguf.architecture().unwrap(), "qwen3moe");
    assert_eq!((gguf.tensors().len(), gguf.data_bytes()), (74, 7_413_760));
    assert_eq!(gguf.metadata().require_strings("tokenizer.ggml.tokens").unwrap().len(), 4096);
    let embedding = gguf.tensor("token_embd.weight").unwrap();
    assert_eq!(
        (embedding.dims.as_slice(), embedding.type_name(), embedding.offset),
        ([256, 4096].as_slice(), "q6_k", 133_664)
    );
}

/// Files that other programs wrote.
#[test]
fn golden_files_are_read() {
    let Some(golden) = std::env::var_os("HALOGEN_GOLDEN") else {
        return eprintln!("skipped: HALOGEN_GOLDEN names no folder of golden files");
    };
    let mut files = 0;
    for folder in ["formats", "models"] {
        for entry in std::fs::read_dir(Path::new(&golden).join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "gguf") {
                check_golden(&path);
                files += 1;
            }
        }
    }
    assert!(files > 0, "{} holds no GGUF file", golden.display());
}

fn check_golden(path: &Path) {
    let gguf = Gguf::open(path).unwrap();
    assert!(!gguf.architecture().unwrap().is_empty());
    let bytes = std::fs::read(path).unwrap();
    let mut buffer = Vec::new();
    for tensor in gguf.tensors() {
        buffer.resize(tensor.bytes as usize, 0);
        gguf.blocking_read(tensor, 0, &mut buffer).unwrap();
        assert_eq!(buffer, bytes[tensor.offset as usize..][..buffer.len()], "{}", tensor.name);
    }
    let last = gguf.tensors().iter().map(|t| t.offset + t.bytes).max().unwrap();
    assert!(bytes.len() as u64 - last < 32, "{}: {last} of {} bytes are accounted for", gguf.name(), bytes.len());
}
