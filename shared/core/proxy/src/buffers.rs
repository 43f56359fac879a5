//! Buffers that are used again: a connection has one only while it has bytes to hold.

use std::cell::RefCell;

/// Buffers begin so large: a head and a small body.
pub const SIZE: usize = 16 << 10;
/// Buffers kept for reuse.
const SPARE: usize = 128;

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
