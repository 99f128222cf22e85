//! Shared data that is read without a lock.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::*, fence};

/// Counts the changes of what stands beside it. Whoever changes that makes the count odd; readers retry while it is, or
/// moves. All zero is a value.
#[repr(transparent)]
pub(super) struct Versions(AtomicU32);

impl Versions {
    pub const fn new() -> Versions {
        Versions(AtomicU32::new(0))
    }

    /// Runs `change` alone. What it does must be short and cannot fail: the others spin.
    pub fn change<T>(&self, change: impl FnOnce() -> T) -> T {
        loop {
            let before = self.0.load(Relaxed);
            if before.is_multiple_of(2)
                && self.0.compare_exchange_weak(before, before.wrapping_add(1), Acquire, Relaxed).is_ok()
            {
                break;
            }
            std::thread::yield_now();
        }
        // Nobody sees what is changed before they see that it is.
        fence(Release);
        let _changing = Changing(&self.0);
        change()
    }

    /// What `read` sees while nobody changes anything, and the number of changes for which that holds.
    pub fn read<T>(&self, read: impl Fn() -> T) -> (T, u32) {
        loop {
            let before = self.0.load(Acquire);
            let seen = read();
            fence(Acquire);
            if before.is_multiple_of(2) && self.0.load(Relaxed) == before {
                return (seen, before);
            }
            std::thread::yield_now();
        }
    }
}

/// Ends a change, whatever becomes of it.
struct Changing<'a>(&'a AtomicU32);

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Release);
    }
}

/// Bytes in words, as many as fit.
pub(super) fn store(words: &[AtomicU64], length: &AtomicU32, text: &[u8]) {
    let text = &text[..text.len().min(8 * words.len())];
    for (word, bytes) in words.iter().zip(text.chunks(8)) {
        let mut padded = [0; 8];
        padded[..bytes.len()].copy_from_slice(bytes);
        word.store(u64::from_ne_bytes(padded), Relaxed);
    }
    length.store(text.len() as u32, Relaxed);
}

pub(super) fn load(words: &[AtomicU64], length: &AtomicU32) -> Vec<u8> {
    let length = (length.load(Relaxed) as usize).min(8 * words.len());
    let mut text: Vec<u8> =
        words[..length.div_ceil(8)].iter().flat_map(|word| word.load(Relaxed).to_ne_bytes()).collect();
    text.truncate(length);
    text
}

/// A digest in words.
pub(super) fn words(digest: &[u8; 32]) -> [u64; 4] {
    std::array::from_fn(|at| digest[8 * at..].first_chunk().map_or(0, |bytes| u64::from_ne_bytes(*bytes)))
}
