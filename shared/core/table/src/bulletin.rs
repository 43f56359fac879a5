//! A bulletin: a short text that one thread of a process rewrites a few times a second, and that readers see whole or not.
//!
//! Word 0 is a sequence, odd while the text is being written; word 1 its length in bytes.

use crate::atomic::{AtomicU64, Ordering, fence, size};

use crate::layout::word;

/// Words of a bulletin; a text of [`BULLETIN_BYTES`] fits.
pub const BULLETIN_WORDS: usize = size(258, 0);
/// The longest text.
pub const BULLETIN_BYTES: usize = (size(258, 2) - 2) * 8;
const TRIES: usize = 100;

/// Writes a text; one that is too long is not written. Empty: there is nothing to say.
pub fn write(words: &[AtomicU64], text: &[u8]) {
    if text.len() > BULLETIN_BYTES || words.is_empty() {
        return;
    }
    let sequence = word(words, 0);
    let before = sequence.load(Ordering::Relaxed) | 1;
    sequence.store(before, Ordering::Relaxed);
    fence(Ordering::Release);
    word(words, 1).store(text.len() as u64, Ordering::Relaxed);
    for (place, bytes) in words.iter().skip(2).zip(text.chunks(8)) {
        let mut packed = [0; 8];
        packed.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        place.store(u64::from_le_bytes(packed), Ordering::Relaxed);
    }
    sequence.store(before.wrapping_add(1), Ordering::Release);
}

/// Reads the text, if there is one and it holds still.
#[must_use]
pub fn read(words: &[AtomicU64]) -> Option<Vec<u8>> {
    for _ in 0..TRIES {
        let before = word(words, 0).load(Ordering::Acquire);
        if before % 2 == 1 {
            std::hint::spin_loop();
            continue;
        }
        let length = usize::try_from(word(words, 1).load(Ordering::Relaxed)).unwrap_or(0).min(BULLETIN_BYTES);
        let mut text: Vec<u8> = words
            .iter()
            .skip(2)
            .take(length.div_ceil(8))
            .flat_map(|place| place.load(Ordering::Relaxed).to_le_bytes())
            .collect();
        text.truncate(length);
        fence(Ordering::Acquire);
        if word(words, 0).load(Ordering::Relaxed) == before {
            return (!text.is_empty()).then_some(text);
        }
    }
    None
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn words() -> Vec<AtomicU64> {
        (0..BULLETIN_WORDS).map(|_| AtomicU64::new(0)).collect()
    }

    #[test]
    fn what_was_written_last_is_read() {
        let words = words();
        assert_eq!(read(&words), None);
        write(&words, b"a longer text than the next");
        write(&words, b"weight 40");
        assert_eq!(read(&words).as_deref(), Some(b"weight 40".as_slice()));
        write(&words, &vec![0; BULLETIN_BYTES + 1]);
        assert_eq!(read(&words).as_deref(), Some(b"weight 40".as_slice()), "what is too long is not written");
        write(&words, b"");
        assert_eq!(read(&words), None);
    }

    #[test]
    fn a_text_that_is_being_written_is_not_read() {
        let words = words();
        write(&words, b"old");
        word(&words, 0).fetch_add(1, Ordering::Relaxed);
        assert_eq!(read(&words), None);
        write(&words, b"new");
        assert_eq!(read(&words).as_deref(), Some(b"new".as_slice()), "whoever takes the region over writes on");
    }

    #[test]
    fn a_reader_beside_a_writer_never_sees_two_texts_in_one() {
        let words = words();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for turn in 0..20_000_usize {
                    let letter = b'a' + u8::try_from(turn % 26).unwrap_or(0);
                    write(&words, &vec![letter; 1 + turn % 700]);
                }
            });
            while !writer.is_finished() {
                if let Some(text) = read(&words) {
                    assert!(text.iter().all(|byte| Some(byte) == text.first()));
                }
            }
        });
    }
}
