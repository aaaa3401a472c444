//! The GGUF reader takes any bytes: an error or a file, never a panic, never more memory than the file accounts for.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use models::format::gguf::{Gguf, Value, architecture_of};
use proptest::prelude::*;

use crate::support::{GgufWriter, tiny_model};

/// Counts what the current thread has allocated, and the most it held since [`peak_of`] began.
struct Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count(change: isize) {
    // A thread that ends may free after its counters are gone; nobody measures it then.
    let _ = HELD.try_with(|held| {
        held.set(held.get() + change);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(held.get())));
    });
}

// SAFETY: every call goes to the system's allocator unchanged; counting touches only constant-initialised
// thread-local cells, which do not allocate.
#[allow(
    unsafe_code,
    reason = "an allocator can only be written so; it measures what the reader allocates"
)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(new_size as isize - layout.size() as isize);
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}

/// What work gives, and the most memory it held at once.
pub(crate) fn peak_of<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.get();
    PEAK.set(before);
    let result = work();
    (result, usize::try_from(PEAK.get() - before).unwrap_or(0))
}

/// How much more memory this thread holds after some work than before.
pub(crate) fn kept_by(work: impl FnOnce()) -> isize {
    let before = HELD.get();
    work();
    HELD.get() - before
}

/// Reads everything there is to read, and holds the memory to its bound.
fn read(bytes: &[u8]) -> bool {
    let (ok, peak) = peak_of(|| match Gguf::parse(bytes) {
        Err(error) => {
            assert!(!error.to_string().is_empty());
            false
        }
        Ok(gguf) => {
            for tensor in &gguf.tensors {
                assert!(tensor.data.end <= bytes.len() && !tensor.data.is_empty());
                assert!(!tensor.tensor_type.name().is_empty());
            }
            if let Some(tokens) = gguf.array("tokenizer.ggml.tokens") {
                assert_eq!(tokens.iter().count(), tokens.len());
                assert!(
                    tokens
                        .iter()
                        .filter(|value| matches!(value, Value::Array(_)))
                        .count()
                        <= tokens.len()
                );
            }
            true
        }
    });
    assert!(
        peak <= 16 * bytes.len() + 4096,
        "{peak} bytes allocated for a file of {}",
        bytes.len()
    );
    ok
}

#[test]
fn a_valid_file_is_read() {
    assert!(read(&tiny_model().bytes()));
    assert!(read(&GgufWriter::default().bytes()));
}

#[test]
fn every_truncation_is_refused() {
    let bytes = tiny_model().bytes();
    // The last tensor is padded to the alignment; without the padding the file is still whole.
    let whole = Gguf::parse(&bytes)
        .unwrap()
        .tensors
        .iter()
        .map(|tensor| tensor.data.end)
        .max()
        .unwrap();
    for length in (0..whole).step_by(7).chain([whole - 1]) {
        assert!(!read(&bytes[..length]), "cut at {length} of {whole}");
    }
    assert!(read(&bytes[..whole]));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        read(&bytes);
    }

    #[test]
    fn arbitrary_bytes_behind_a_header_never_panic(
        counts in (0u64..6, 0u64..6),
        bytes in prop::collection::vec(prop_oneof![3 => Just(0u8), 2 => 0u8..14, 1 => any::<u8>()], 0..512),
    ) {
        let mut file = b"GGUF\x03\0\0\0".to_vec();
        file.extend(counts.0.to_le_bytes());
        file.extend(counts.1.to_le_bytes());
        file.extend(bytes);
        read(&file);
    }

    #[test]
    fn mutations_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        near_the_beginning in any::<bool>(),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = small_file();
        let range = if near_the_beginning { 256.min(bytes.len()) } else { bytes.len() };
        for (index, value) in changes {
            bytes[index.index(range)] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        read(&bytes);
    }

    #[test]
    fn absurd_numbers_never_panic(at in any::<prop::sample::Index>(), number in prop_oneof![
        Just(u64::MAX), Just(u64::MAX / 2), Just(1 << 62), Just(1 << 32), Just(i64::MAX as u64 - 31), any::<u64>(),
    ]) {
        let mut bytes = small_file();
        let at = at.index(bytes.len() - 8);
        bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
        read(&bytes);
    }
}

fn small_file() -> Vec<u8> {
    let mut writer = GgufWriter::default();
    writer
        .string("general.architecture", "llama")
        .u32("general.alignment", 32)
        .strings("tokenizer.ggml.tokens", &["a", "b", "▁"])
        .f32s("tokenizer.ggml.scores", &[0.0, 1.0, 2.0])
        .bool("flag", true)
        .tensor("a", &[2, 4], 0, &[1; 32])
        .tensor("b", &[3, 32], 8, &[2; 102])
        .tensor("c", &[1], 1, &[3; 2]);
    writer.bytes()
}

/// What a problem says.
fn refusal(bytes: &[u8]) -> String {
    assert!(!read(bytes));
    Gguf::parse(bytes).unwrap_err().to_string()
}

#[test]
fn each_contradiction_has_its_message() {
    let writer = GgufWriter::default;
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (b"not a model at all, just text".to_vec(), "GGUF"),
        (b"GGUF\x01\0\0\0\0\0\0\0\0\0\0\0".to_vec(), "version 1"),
        (b"GGUF\0\0\0\x03\0\0\0\0\0\0\0\0".to_vec(), "big-endian"),
        (writer().u32("k", 1).u32("k", 2).bytes(), "\"k\" occurs twice"),
        (writer().u32("general.alignment", 0).bytes(), "alignment"),
        (writer().u32("general.alignment", 24).bytes(), "alignment"),
        (
            writer()
                .tensor("t", &[1], 0, &[0; 4])
                .tensor("t", &[1], 0, &[0; 4])
                .bytes(),
            "\"t\" occurs twice",
        ),
        (writer().tensor("t", &[0], 0, &[]).bytes(), "dimension of 0"),
        (writer().tensor("t", &[1; 5], 0, &[0; 4]).bytes(), "5 dimensions"),
        (writer().tensor("t", &[], 0, &[0; 4]).bytes(), "0 dimensions"),
        (
            writer().tensor("t", &[usize::MAX, 2], 0, &[0; 4]).bytes(),
            "too large",
        ),
        (
            writer().tensor("t", &[1 << 32, 1 << 32], 0, &[0; 4]).bytes(),
            "too large",
        ),
        (writer().tensor("t", &[33], 8, &[0; 68]).bytes(), "Q8_0 blocks"),
        (writer().tensor("t", &[1], 99, &[0; 4]).bytes(), "unknown type 99"),
        (writer().tensor("t", &[9], 0, &[0; 4]).bytes(), "beyond the file"),
        (
            writer()
                .tensor("t", &[1], 0, &[0; 4])
                .entry("u", &[1], 0, u64::MAX - 31)
                .bytes(),
            "\"u\"",
        ),
        (
            writer()
                .tensor("t", &[9], 0, &[0; 36])
                .entry("u", &[1], 0, 7)
                .bytes(),
            "not aligned",
        ),
        (
            writer()
                .tensor("t", &[9], 0, &[0; 36])
                .entry("u", &[1], 0, 32)
                .bytes(),
            "overlap",
        ),
    ];
    for (bytes, expected) in cases {
        let found = refusal(&bytes);
        assert!(found.contains(expected), "{found:?} does not say {expected:?}");
    }
}

#[test]
fn arrays_nest_only_so_deep() {
    let nested = |depth: usize| {
        let mut bytes =
            b"GGUF\x03\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0k\x09\0\0\0".to_vec();
        for _ in 1..depth {
            bytes.extend([9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
        }
        bytes.extend([0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7]);
        bytes
    };
    assert!(!read(&nested(1000)));
    let shallow = nested(3);
    assert!(Gguf::parse(&shallow).is_ok_and(|gguf| gguf.array("k").unwrap().len() == 1));
}

#[test]
fn the_architecture_is_read_from_a_beginning_or_not_at_all() {
    let bytes = tiny_model().bytes();
    let gguf = Gguf::parse(&bytes).unwrap();
    let expected = gguf.string("general.architecture").unwrap();
    assert_eq!(architecture_of(&bytes), Some(expected));
    let told: Vec<usize> = (0..bytes.len())
        .filter(|&end| architecture_of(&bytes[..end]).is_some())
        .collect();
    assert!(told.len() > bytes.len() / 2 && told.iter().all(|&end| end > 24));
    assert!(
        told.iter()
            .all(|&end| architecture_of(&bytes[..end]) == Some(expected))
    );
    assert_eq!(
        architecture_of(b"GGUF\x03\0\0\0\0\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff"),
        None
    );
}
