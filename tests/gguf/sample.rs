//! Files that the tests make themselves.

use std::path::{Path, PathBuf};

use halogen::gguf::{Array, Gguf, Metadata, Strings, Value, Writer};

/// A key of every type, nested arrays and text that is no UTF-8 among them.
pub fn metadata() -> Metadata {
    let mut metadata = Metadata::new();
    metadata.insert("general.architecture", "llama".into());
    metadata.insert("t.u8", 200u8.into());
    metadata.insert("t.i8", (-100i8).into());
    metadata.insert("t.u16", 60_000u16.into());
    metadata.insert("t.i16", (-30_000i16).into());
    metadata.insert("t.u32", 4_000_000_000u32.into());
    metadata.insert("t.i32", (-2_000_000_000i32).into());
    metadata.insert("t.u64", u64::MAX.into());
    metadata.insert("t.i64", i64::MIN.into());
    metadata.insert("t.f32", 1.5f32.into());
    metadata.insert("t.f64", 0.1f64.into());
    metadata.insert("t.bool", true.into());
    metadata.insert("t.bytes", Value::String(b"\xffabc".to_vec()));
    metadata.insert("t.empty", "".into());
    metadata.insert("t.tokens", Strings::from_iter([b"a".as_slice(), b"", b"\xf0\x9f", b"end"]).into());
    metadata.insert("t.u8s", vec![1u8, 2, 3].into());
    metadata.insert("t.i8s", vec![-1i8, 2].into());
    metadata.insert("t.u16s", vec![1u16].into());
    metadata.insert("t.i16s", vec![-1i16].into());
    metadata.insert("t.u32s", vec![1u32, u32::MAX].into());
    metadata.insert("t.i32s", vec![-1i32, 5].into());
    metadata.insert("t.u64s", vec![7u64].into());
    metadata.insert("t.i64s", vec![7i64, 8].into());
    metadata.insert("t.f32s", vec![0.25f32, -8.0].into());
    metadata.insert("t.f64s", vec![0.5f64].into());
    metadata.insert("t.bools", vec![true, false].into());
    metadata.insert("t.none", Vec::<f32>::new().into());
    let inner = vec![Array::U32(vec![1, 2]), Array::String(Strings::from_iter(["x"])), Array::Array(vec![])];
    metadata.insert("t.nested", Array::Array(inner).into());
    metadata
}

/// `tensors` as (name, dims, ggml type, bytes), in a file.
pub fn write(metadata: &Metadata, tensors: &[(&str, &[u64], u32, &[u8])]) -> Vec<u8> {
    let mut writer = Writer::new(metadata).unwrap();
    for (name, dims, ggml_type, bytes) in tensors {
        writer.tensor(name, dims, *ggml_type, bytes).unwrap();
    }
    let mut file = Vec::new();
    writer.write(&mut file).unwrap();
    file
}

/// [`metadata`], an f32 vector, a q8_0 matrix and a scalar.
pub fn file() -> Vec<u8> {
    let matrix: Vec<u8> = (0..4 * 34).map(|i| i as u8).collect();
    write(
        &metadata(),
        &[("norm.weight", &[3], 0, &[7; 12]), ("ffn.weight", &[64, 2], 8, &matrix), ("scale", &[1], 30, &[1, 2])],
    )
}

/// A file by hand, for what the writer does not write. `header` follows the magic.
pub fn by_hand(version: u32, tensors: u64, pairs: u64, rest: &[&[u8]]) -> Vec<u8> {
    let mut file = b"GGUF".to_vec();
    file.extend_from_slice(&version.to_le_bytes());
    file.extend_from_slice(&tensors.to_le_bytes());
    file.extend_from_slice(&pairs.to_le_bytes());
    file.extend(rest.concat());
    file
}

/// A string as the format has it.
pub fn string(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text].concat()
}

/// What is wrong with these bytes, in words.
pub fn refusal(bytes: Vec<u8>) -> String {
    match Gguf::from_bytes("model.gguf", bytes) {
        Ok(_) => panic!("the file was accepted"),
        Err(error) => error.to_string(),
    }
}

/// An empty folder for one test.
pub fn folder(test: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("gguf-{test}"));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}
