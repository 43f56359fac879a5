//! Short texts in atomic words.

use crate::atomic::{AtomicU64, Ordering};

use crate::layout::word;

/// Writes a text, cut to its room and ended by a zero byte.
pub fn write_text(block: &[AtomicU64], from: usize, words: usize, text: &str) {
    let mut bytes = text.as_bytes().iter().take(words * 8 - 1);
    for i in 0..words {
        let mut packed = [0; 8];
        for byte in &mut packed {
            *byte = bytes.next().copied().unwrap_or(0);
        }
        word(block, from + i).store(u64::from_le_bytes(packed), Ordering::Relaxed);
    }
}

/// Reads a text.
#[must_use]
pub fn read_text(block: &[AtomicU64], from: usize, words: usize) -> String {
    let bytes: Vec<u8> = (0..words)
        .flat_map(|i| word(block, from + i).load(Ordering::Relaxed).to_le_bytes())
        .take_while(|b| *b != 0)
        .collect();
    String::from_utf8_lossy(&bytes).into_owned()
}
