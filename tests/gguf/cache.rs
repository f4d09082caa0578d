//! What the page cache holds of a file. Linux alone tells: a read that must not wait fails where it is not held.

use halogen::gguf::{FileSource, ReadAt};
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use std::fs::File;
use std::io::IoSliceMut;
use std::path::Path;

/// Whether the cache holds the byte at `at`; none where the file system cannot say.
fn held(file: &File, at: u64) -> Option<bool> {
    match preadv2(file, &mut [IoSliceMut::new(&mut [0])], at, ReadWriteFlags::NOWAIT) {
        Ok(1) => Some(true),
        Err(Errno::AGAIN) => Some(false),
        Err(Errno::OPNOTSUPP) => None,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_page_cache_lets_go_of_what_was_read_and_of_nothing_else() {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("forgotten");
    std::fs::write(&path, vec![1; 16 << 20]).unwrap();
    let file = File::open(&path).unwrap();
    // What is not written yet is kept.
    file.sync_all().unwrap();
    let source = FileSource::new(file.try_clone().unwrap()).unwrap();
    source.read_at(0, &mut vec![0; 16 << 20]).unwrap();
    let [before, middle, after] = [0, 8 << 20, (16 << 20) - 1];
    if held(&file, middle).is_none() {
        return eprintln!("skipped: this file system does not say what it has cached");
    }
    assert_eq!([before, middle, after].map(|at| held(&file, at)), [Some(true); 3]);
    // Pages are kept in groups of up to 2 MiB or so, and a part of a group stays.
    source.forget(4 << 20, 8 << 20);
    assert_eq!([before, middle, after].map(|at| held(&file, at)), [Some(true), Some(false), Some(true)]);
    std::fs::remove_file(&path).unwrap();
}
