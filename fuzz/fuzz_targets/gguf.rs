//! Any bytes as a GGUF file: opened, asked for every key in every type, every tensor read.
//!
//! `cargo +nightly fuzz run gguf -- -rss_limit_mb=256 -max_len=65536`, from the repository's root.
#![no_main]

use halogen::gguf::Gguf;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(gguf) = Gguf::from_bytes("fuzz.gguf", bytes.to_vec()) else { return };
    let metadata = gguf.metadata();
    for (key, _) in metadata.iter() {
        let _ = (metadata.u32(key), metadata.u64(key), metadata.f32(key), metadata.bool(key), metadata.str(key));
        let _ = (metadata.strings(key), metadata.u32s(key), metadata.i32s(key), metadata.f32s(key));
    }
    for tensor in gguf.tensors() {
        assert!(tensor.bytes <= bytes.len() as u64);
        gguf.blocking_read(tensor, 0, &mut vec![0; tensor.bytes as usize]).expect("a tensor within the file");
    }
    assert!(gguf.data_bytes() <= bytes.len() as u64);
});
