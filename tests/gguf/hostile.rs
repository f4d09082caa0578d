//! Valid files with random damage: never a panic, and never much more memory than the file has bytes.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use halogen::gguf::Gguf;
use proptest::prelude::*;

use crate::sample;

/// The system's allocator, and each thread's count of bytes that it holds and of the most that it held.
struct Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    // A thread that is ending has no counters any more.
    let _ = HELD.try_with(|held| {
        held.set(held.get() + bytes);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(held.get())));
    });
}

// SAFETY: all work is the system allocator's; the counters neither allocate nor unwind.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promise, handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller's promise, handed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Opens the file and reads what it claims to hold. The memory for that may be this many times the file, and a little:
/// the densest file below, pairs of 16 bytes, takes 15 times its size.
fn open_within_bounds(bytes: Vec<u8>) {
    const TIMES: isize = 24;
    const CONSTANT: isize = 16 << 10;
    let bound = CONSTANT + TIMES * bytes.len() as isize;
    let before = HELD.get();
    PEAK.set(before);
    if let Ok(gguf) = Gguf::from_bytes("model.gguf", bytes) {
        for tensor in gguf.tensors() {
            gguf.blocking_read(tensor, 0, &mut vec![0; tensor.bytes as usize]).expect("a tensor within the file");
        }
    }
    let peak = PEAK.get() - before;
    assert!(peak <= bound, "{peak} bytes held, {bound} allowed");
}

#[derive(Clone, Debug)]
enum Damage {
    /// One byte becomes another.
    Byte(prop::sample::Index, u8),
    /// Eight bytes become a length.
    Length(prop::sample::Index, u64),
    /// Bytes go, and all that follows moves.
    Cut(prop::sample::Index, usize),
    /// Bytes come in twice.
    Repeat(prop::sample::Index, usize),
}

fn damage() -> impl Strategy<Value = Damage> {
    let at = any::<prop::sample::Index>;
    let length = prop_oneof![0..64u64, Just(1 << 31), Just(1 << 32), Just(u64::MAX), Just(1 << 61), any::<u64>()];
    prop_oneof![
        (at(), any::<u8>()).prop_map(|(at, byte)| Damage::Byte(at, byte)),
        (at(), length).prop_map(|(at, length)| Damage::Length(at, length)),
        (at(), 1..40usize).prop_map(|(at, len)| Damage::Cut(at, len)),
        (at(), 1..40usize).prop_map(|(at, len)| Damage::Repeat(at, len)),
    ]
}

fn apply(bytes: &mut Vec<u8>, damage: &Damage) {
    // Room for one byte at least; the tail of a short file may be shorter than the damage asks for.
    let span = |at: &prop::sample::Index, len: usize| {
        let start = at.index(bytes.len().max(1)).min(bytes.len());
        start..(start + len).min(bytes.len())
    };
    match damage {
        Damage::Byte(at, byte) => {
            let span = span(at, 1);
            bytes[span].fill(*byte);
        }
        Damage::Length(at, length) => {
            let span = span(at, 8);
            let len = span.len();
            bytes[span].copy_from_slice(&length.to_le_bytes()[..len]);
        }
        Damage::Cut(at, len) => drop(bytes.drain(span(at, *len))),
        Damage::Repeat(at, len) => {
            let span = span(at, *len);
            let again = bytes[span.clone()].to_vec();
            bytes.splice(span.start..span.start, again);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn damaged_files_neither_panic_nor_bloat(damages in prop::collection::vec(damage(), 1..6)) {
        let mut bytes = sample::file();
        damages.iter().for_each(|damage| apply(&mut bytes, damage));
        open_within_bounds(bytes);
    }

    #[test]
    fn noise_after_the_magic_neither_panics_nor_bloats(noise in prop::collection::vec(any::<u8>(), 0..512)) {
        open_within_bounds([b"GGUF\x03\0\0\0".as_slice(), &noise].concat());
    }
}

/// The worst that a file can do: items that are small in the file and large in memory.
#[test]
fn dense_files_do_not_bloat() {
    let count = 20_000u64;
    let empty_array = [4u32.to_le_bytes().as_slice(), &0u64.to_le_bytes()].concat();
    let arrays = [
        sample::string(b"k"),
        9u32.to_le_bytes().into(),
        9u32.to_le_bytes().into(),
        count.to_le_bytes().into(),
        empty_array.repeat(count as usize),
    ];
    open_within_bounds(sample::by_hand(3, 0, 1, &[&arrays.concat()]));

    let strings = [
        sample::string(b"k"),
        9u32.to_le_bytes().into(),
        8u32.to_le_bytes().into(),
        count.to_le_bytes().into(),
        vec![0; 8 * count as usize],
    ];
    open_within_bounds(sample::by_hand(3, 0, 1, &[&strings.concat()]));

    let pairs: Vec<u8> =
        (0..count as u32).flat_map(|i| [&sample::string(&key(i)), [0; 5].as_slice()].concat()).collect();
    open_within_bounds(sample::by_hand(3, 0, count, &[&pairs]));

    let tensor = |i: u32| {
        let offset = u64::from(i) * 32;
        [&sample::string(&key(i)), [0; 4].as_slice(), &24u32.to_le_bytes(), &offset.to_le_bytes()].concat()
    };
    let mut tensors = sample::by_hand(3, count, 0, &[&(0..count as u32).flat_map(tensor).collect::<Vec<u8>>()]);
    tensors.resize(tensors.len().next_multiple_of(32) + 32 * count as usize, 0);
    open_within_bounds(tensors);
}

/// A short key that is UTF-8, one for each `i` below 2^21.
fn key(i: u32) -> Vec<u8> {
    (0..3).map(|digit| (i >> (7 * digit)) as u8 & 0x7f).collect()
}
