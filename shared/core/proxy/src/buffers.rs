//! Buffers that are used again: a connection has one only while it has bytes to hold.

use std::cell::RefCell;

/// Buffers begin so large: a head and a small body. An odd number of cache lines, with what the allocator adds: at a
/// distance of a power of two their beginnings, which every request touches, would share a few sets of the cache.
pub const SIZE: usize = (256 + 5) * 64 - 16;
/// Buffers kept for reuse: two a request that waits for its answer.
const SPARE: usize = 512;

/// The spare buffers of one worker.
#[derive(Default)]
pub struct Buffers(RefCell<Vec<Vec<u8>>>);

impl Buffers {
    /// An empty buffer.
    pub fn take(&self) -> Vec<u8> {
        self.0.borrow_mut().pop().unwrap_or_else(|| Vec::with_capacity(SIZE))
    }

    /// Gives a buffer back; one that grew is let go.
    pub fn give(&self, mut buffer: Vec<u8>) {
        let mut spare = self.0.borrow_mut();
        if buffer.capacity() == SIZE && spare.len() < SPARE {
            buffer.clear();
            spare.push(buffer);
        }
    }
}
