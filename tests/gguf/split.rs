//! Split models.

use std::path::{Path, PathBuf};

use halogen::gguf::{Gguf, Metadata};

use crate::sample;

fn shard_metadata(index: u16, count: u16, tensors: i32) -> Metadata {
    let mut metadata = Metadata::new();
    if index == 0 {
        metadata.insert("general.architecture", "llama".into());
    }
    metadata.insert("split.no", index.into());
    metadata.insert("split.count", count.into());
    metadata.insert("split.tensors.count", tensors.into());
    metadata
}

fn shard_path(folder: &Path, index: u16) -> PathBuf {
    folder.join(format!("model-{:05}-of-00003.gguf", index + 1))
}

fn write_shard(folder: &Path, index: u16, metadata: &Metadata, tensors: &[(&str, &[u64], u32, &[u8])]) {
    std::fs::write(shard_path(folder, index), sample::write(metadata, tensors)).unwrap();
}

/// Three files: metadata alone, as `gguf-split --no-tensor-first-split` makes the first, then two tensors, then one.
fn split_model(test: &str) -> PathBuf {
    let folder = sample::folder(test);
    write_shard(&folder, 0, &shard_metadata(0, 3, 3), &[]);
    write_shard(&folder, 1, &shard_metadata(1, 3, 3), &[("a", &[2], 24, &[1, 2]), ("b", &[1], 24, &[3])]);
    write_shard(&folder, 2, &shard_metadata(2, 3, 3), &[("c", &[2], 24, &[4, 5])]);
    folder
}

fn refusal(path: &Path) -> String {
    Gguf::open(path).unwrap_err().to_string()
}

#[test]
fn any_shard_opens_all() {
    let folder = split_model("any");
    for index in 0..3 {
        let gguf = Gguf::open(&shard_path(&folder, index)).unwrap();
        assert_eq!(gguf.name(), "model-00001-of-00003.gguf");
        assert_eq!(gguf.architecture().unwrap(), "llama");
        let tensors: Vec<_> = gguf.tensors().iter().map(|t| (t.name.as_str(), t.shard)).collect();
        assert_eq!(tensors, [("a", 1), ("b", 1), ("c", 2)]);
        let mut bytes = [0; 2];
        gguf.blocking_read(gguf.tensor("c").unwrap(), 0, &mut bytes).unwrap();
        assert_eq!(bytes, [4, 5]);
    }
}

#[test]
fn a_missing_shard_is_named() {
    let folder = split_model("missing");
    std::fs::remove_file(shard_path(&folder, 1)).unwrap();
    let refusal = refusal(&shard_path(&folder, 2));
    assert!(refusal.starts_with("model-00003-of-00003.gguf: shard 2 of 3 is missing: "), "{refusal}");
    assert!(refusal.ends_with("model-00002-of-00003.gguf"), "{refusal}");
}

#[test]
fn shards_that_do_not_fit_together_are_refused() {
    let folder = split_model("unfit");
    let first = shard_path(&folder, 0);
    let tensors: &[(&str, &[u64], u32, &[u8])] = &[("c", &[2], 24, &[4, 5])];

    write_shard(&folder, 2, &shard_metadata(1, 3, 3), tensors);
    assert_eq!(refusal(&first), "model-00003-of-00003.gguf: split.no = 1, where 2 was expected");
    write_shard(&folder, 2, &shard_metadata(2, 4, 3), tensors);
    assert_eq!(refusal(&first), "model-00003-of-00003.gguf: split.count = 4, where 3 was expected");
    write_shard(&folder, 2, &Metadata::new(), tensors);
    assert_eq!(refusal(&first), "model-00003-of-00003.gguf: key split.count: missing");
    write_shard(&folder, 2, &shard_metadata(2, 3, 3), &[]);
    assert_eq!(refusal(&first), "model-00001-of-00003.gguf: split.tensors.count = 3, and the 3 shards hold 2");
    write_shard(&folder, 2, &shard_metadata(2, 3, 3), &[("b", &[1], 24, &[4])]);
    assert_eq!(
        refusal(&first),
        "model-00003-of-00003.gguf: tensor b: stands twice, first in model-00002-of-00003.gguf"
    );
    write_shard(&folder, 0, &shard_metadata(3, 3, 3), &[]);
    assert_eq!(refusal(&first), "model-00001-of-00003.gguf: split.no = 3 names no shard of split.count = 3");
}

#[test]
fn a_renamed_shard_says_what_its_name_should_be() {
    let folder = split_model("renamed");
    let renamed = folder.join("weights.gguf");
    std::fs::rename(shard_path(&folder, 1), &renamed).unwrap();
    assert_eq!(
        refusal(&renamed),
        "weights.gguf: shard 2 of 3 by its metadata, so its name should end in -00002-of-00003.gguf"
    );
}

#[test]
fn a_shard_alone_in_memory_is_refused() {
    let bytes = sample::write(&shard_metadata(0, 3, 3), &[]);
    assert_eq!(sample::refusal(bytes), "model.gguf: one shard of 3; a split model is opened by its path");
}
