//! In a model: a segment is a list of loom's words that its threads share. It stands for [`crate::map`], whose file this
//! replaces in a build with `--cfg loom`.

use std::sync::Arc;
use std::time::Duration;

use crate::Error;
use crate::atomic::{AtomicU64, Ordering};

/// May this process store into the mapping?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Loads only.
    Read,
    /// Loads and stores.
    Write,
}

/// One view of a segment; its clones are views of the same words.
#[derive(Clone, Debug)]
pub struct Mapping {
    words: Arc<[AtomicU64]>,
    access: Access,
}

impl Mapping {
    /// A fresh segment of `bytes` bytes.
    #[must_use]
    pub fn fresh(bytes: usize) -> Self {
        Mapping { words: (0..bytes / 8).map(|_| AtomicU64::new(0)).collect(), access: Access::Write }
    }

    /// The whole segment.
    #[must_use]
    pub fn words(&self) -> &[AtomicU64] {
        &self.words
    }

    /// Whether this mapping may be stored to.
    #[must_use]
    pub fn access(&self) -> Access {
        self.access
    }

    /// A model has all of its memory.
    ///
    /// # Errors
    /// None.
    pub fn reserve(&self, _from: usize, _words: usize) -> Result<(), Error> {
        Ok(())
    }
}

/// Nobody sleeps in a model: who waits looks again.
pub fn wake(_word: &AtomicU64) {}

/// Gives way.
pub fn wait(word: &AtomicU64, seen: u64, _timeout: Duration) {
    if word.load(Ordering::Acquire) == seen {
        loom::thread::yield_now();
    }
}
