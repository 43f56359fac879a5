//! The body of a request, kept for a second attempt while it is sent the first time.
//!
//! Only for a route that may retry, up to the route's limit, and under one cap for the whole process: a body beyond either
//! is sent all the same, and its request is not repeated.

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes that may be kept by all requests of this process together.
const CAP: usize = 8 << 20;
static KEPT: AtomicUsize = AtomicUsize::new(0);

/// What has been sent of one body.
pub struct Kept {
    bytes: RefCell<Vec<u8>>,
    limit: usize,
    is_whole: Cell<bool>,
}

impl Kept {
    /// Room for `limit` bytes; 0 keeps nothing.
    pub fn up_to(limit: usize) -> Self {
        Kept { bytes: RefCell::default(), limit, is_whole: Cell::new(true) }
    }

    /// Keeps what is sent next.
    pub fn keep(&self, sent: &[u8]) {
        if !self.is_whole.get() {
            return;
        }
        let mut bytes = self.bytes.borrow_mut();
        let fits = bytes.len() + sent.len() <= self.limit
            && KEPT
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| Some(n + sent.len()).filter(|n| *n <= CAP))
                .is_ok();
        if fits {
            bytes.extend_from_slice(sent);
        } else {
            self.is_whole.set(false);
            KEPT.fetch_sub(bytes.len(), Ordering::Relaxed);
            *bytes = Vec::new();
        }
    }

    /// Whether everything that was sent is here.
    pub fn is_whole(&self) -> bool {
        self.is_whole.get()
    }

    /// Appends what was kept; it is kept no longer.
    pub fn give_to(&self, out: &mut Vec<u8>) {
        let bytes = std::mem::take(&mut *self.bytes.borrow_mut());
        KEPT.fetch_sub(bytes.len(), Ordering::Relaxed);
        out.extend_from_slice(&bytes);
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        KEPT.fetch_sub(self.bytes.borrow().len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_over_the_limit_is_not_kept_and_takes_no_room() {
        let kept = Kept::up_to(10);
        kept.keep(b"12345");
        assert!(kept.is_whole());
        kept.keep(b"123456");
        assert!(!kept.is_whole());
        kept.keep(b"1");
        assert!(!kept.is_whole(), "and never again");
        let kept = Kept::up_to(10);
        kept.keep(b"abc");
        kept.keep(b"def");
        let mut out = b"head ".to_vec();
        kept.give_to(&mut out);
        assert_eq!(out, b"head abcdef");
        drop(kept);
        assert_eq!(KEPT.load(Ordering::Relaxed), 0);
    }
}
