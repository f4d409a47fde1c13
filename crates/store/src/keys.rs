//! A hasher for keys of rows: integers that grow by one, hashed by one multiplication.
//!
//! Keys are given by the store itself, so nobody can choose them to collide.

use std::hash::{BuildHasherDefault, Hasher};

/// A map by the key of a row.
pub(crate) type KeyMap<V> = std::collections::HashMap<u64, V, BuildHasherDefault<KeyHasher>>;

/// Fibonacci hashing (D. Knuth, The Art of Computer Programming, volume 3, section 6.4).
#[derive(Debug, Default)]
pub(crate) struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, key: u64) {
        let mixed = (self.0 ^ key).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        // The table takes its places from the low bits, the product is best in the high ones.
        self.0 = mixed ^ (mixed >> 32);
    }
}
