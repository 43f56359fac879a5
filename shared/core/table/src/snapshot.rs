//! A table: whole snapshots from one writer to many readers, without locks.
//!
//! Layout in 64-bit words: a header page, then three slots of [`SLOT_BYTES`].
//!
//! | words | what |
//! | --- | --- |
//! | 0–2 | magic, ABI, schema |
//! | 3–5 | writer (pid and start time), heartbeat (unix ms), the first generation that no writer has claimed |
//! | 8 | *current*: writer's epoch (24 bits) and generation (40 bits); alone on its cache line |
//! | 16+8i | slot i: generation, length in bytes ([`ABSENT`] = the capability does not exist), checksum |
//!
//! **Publish** generation g: invalidate slot g mod 3, write the payload with relaxed stores, write length and checksum,
//! stamp the slot with g (release), then move *current* from (epoch, g−1) to (epoch, g) by compare-and-swap (release),
//! and wake waiters. The swap fails when another writer took over: the old one is *fenced*.
//! **Read**: load *current* (acquire); copy the slot's words; then check that its stamp still is g (the reader was not
//! lapped) and that the checksum holds. Anything else is a [`ReadError`]: keep the last good one and try again. No slot
//! vouches for *current* itself, so a reader remembers where it was: under one writer a generation never goes back, and
//! one that does was damaged.
//!
//! A writer that dies at any store leaves *current* untouched, so readers keep the snapshot before. A new writer claims
//! a generation that no other writer stamps or ever stamped, so whatever a predecessor that was stopped, and wakes, still
//! stores into its slot is not taken for what is in force: stamp and checksum show it. A slot that was spoilt, by such a
//! one or by damage, is found by its writer's next heartbeat, which publishes the same again; until then readers keep the
//! last good one.

use crate::atomic::{AtomicU64, Ordering, fence, size};

use crate::kind::Kind;
use crate::layout;
use crate::map::{self, Mapping};
use crate::owner::Owner;

use crate::{Error, clock};

/// Room for one snapshot.
pub const SLOT_BYTES: usize = size(16 << 20, 16);
const SLOT_WORDS: usize = SLOT_BYTES / 8;
const SLOTS: usize = 3;
const HEADER_WORDS: usize = size(4096 / 8, 40);
/// Size of a table's segment.
pub const SEGMENT_BYTES: usize = HEADER_WORDS * 8 + SLOTS * SLOT_BYTES;
/// A slot's length when it publishes absence.
pub const ABSENT: u64 = u64::MAX;

const WRITER: usize = 3;
const HEARTBEAT: usize = 4;
const CLAIMED: usize = 5;
const CURRENT: usize = 8;
const SLOT_HEADS: usize = 16;
const GENERATION_BITS: u32 = 40;
const GENERATION_MASK: u64 = (1 << GENERATION_BITS) - 1;
/// No writer claims further ahead: so many take over one after the other only if none of them publishes. What does was
/// damaged.
const CLAIMED_AHEAD: u64 = 1 << 16;

/// What a reader found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Snapshot {
    /// Nothing was ever published, or absence was: the capability does not exist.
    Absent,
    /// The payload as it was published.
    Payload(Vec<u8>),
}

/// Why a read gave nothing to use. The last good snapshot stays in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadError {
    /// The writer was faster than the copy; read again.
    Lapped,
    /// The checksum or the length does not hold, or the generation went back: memory was damaged.
    Damaged,
}

/// Words of one table, generic over where they live, so that a model checker can hold them too.
#[derive(Clone, Copy)]
struct View<'a>(&'a [AtomicU64]);

impl<'a> View<'a> {
    fn word(self, i: usize) -> &'a AtomicU64 {
        layout::word(self.0, i)
    }

    fn head(self, slot: usize) -> (&'a AtomicU64, &'a AtomicU64, &'a AtomicU64) {
        let at = SLOT_HEADS + slot * 8;
        (self.word(at), self.word(at + 1), self.word(at + 2))
    }

    fn payload(self, slot: usize) -> &'a [AtomicU64] {
        let from = HEADER_WORDS + slot * SLOT_WORDS;
        self.0.get(from..from + SLOT_WORDS).unwrap_or(&[])
    }
}

fn generation_of(current: u64) -> u64 {
    current & GENERATION_MASK
}

fn slot_of(generation: u64) -> usize {
    (generation % SLOTS as u64) as usize
}

/// Mixes the generation, the length and every word; each step is a bijection of the state, so that a change of any
/// single word always changes the result.
fn checksum(generation: u64, length: u64, words: impl Iterator<Item = u64>) -> u64 {
    let mut state = generation.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ length.rotate_left(32);
    for word in words {
        state = (state ^ word).wrapping_mul(0xff51_afd7_ed55_8ccd).rotate_left(29);
    }
    (state ^ (state >> 32)).wrapping_mul(0xc4ce_b9fe_1a85_ec53)
}

fn to_words(payload: &[u8]) -> impl Iterator<Item = u64> + '_ {
    payload.chunks(8).map(|chunk| {
        let mut bytes = [0; 8];
        for (to, from) in bytes.iter_mut().zip(chunk) {
            *to = *from;
        }
        u64::from_le_bytes(bytes)
    })
}

/// Claims the first generation of a writer that takes over at generation `current`. It skips the one after `current`,
/// which its predecessor may be filling, those that other writers claimed who never published, and one that would take
/// the slot that is in force. A generation that nobody can have reached was damaged: then they begin anew.
fn claim(view: View<'_>, current: u64) -> u64 {
    let current = if current < GENERATION_MASK / 2 { current } else { current % SLOTS as u64 };
    let claimed = view.word(CLAIMED);
    let mut seen = claimed.load(Ordering::Acquire);
    loop {
        let least = current + 2;
        let free = if (least..least + CLAIMED_AHEAD).contains(&seen) { seen } else { least };
        let first = if slot_of(free) == slot_of(current) { free + 1 } else { free };
        match claimed.compare_exchange(seen, first + 1, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return first,
            Err(now) => seen = now,
        }
    }
}

/// The one writer of a table.
#[derive(Debug)]
pub struct Writer {
    map: Mapping,
    epoch: u64,
    next: u64,
    /// What it published last, and the length that the slot says; absence has a length of its own.
    published: Option<(Vec<u8>, u64)>,
}

impl Writer {
    /// Takes the table over: any older writer is fenced from now on. What it published stays in force.
    ///
    /// # Errors
    /// `Layout` for a foreign segment.
    pub fn take_over(map: Mapping, kind: Kind) -> Result<Self, Error> {
        layout::initialise(&map, &format!("table.{}", kind.name()))?;
        let view = View(map.words());
        let current = view.word(CURRENT);
        let mut seen = current.load(Ordering::Acquire);
        loop {
            let epoch = (seen >> GENERATION_BITS).wrapping_add(1) & 0xff_ffff;
            let taken = epoch << GENERATION_BITS | generation_of(seen);
            match current.compare_exchange_weak(seen, taken, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => {
                    let next = claim(view, generation_of(seen));
                    view.word(WRITER).store(Owner::current().0, Ordering::Relaxed);
                    let writer = Writer { epoch, next, map, published: None };
                    writer.say_alive();
                    return Ok(writer);
                }
                Err(now) => seen = now,
            }
        }
    }

    /// Publishes a snapshot; returns its generation.
    ///
    /// # Errors
    /// `TooLarge`, `Fenced`, or `Os` when no memory is left; in each case what was in force stays in force.
    pub fn publish(&mut self, payload: &[u8]) -> Result<u64, Error> {
        if payload.len() > SLOT_BYTES {
            return Err(Error::TooLarge(SLOT_BYTES));
        }
        let generation = self.put(payload, payload.len() as u64)?;
        self.published = Some((payload.to_vec(), payload.len() as u64));
        Ok(generation)
    }

    /// Publishes absence: the capability does not exist from now on.
    ///
    /// # Errors
    /// `Fenced`.
    pub fn withdraw(&mut self) -> Result<u64, Error> {
        let generation = self.put(&[], ABSENT)?;
        self.published = Some((Vec::new(), ABSENT));
        Ok(generation)
    }

    fn put(&mut self, payload: &[u8], length: u64) -> Result<u64, Error> {
        let generation = self.next;
        let slot = slot_of(generation);
        self.map.reserve(HEADER_WORDS + slot * SLOT_WORDS, payload.len().div_ceil(8))?;
        let view = View(self.map.words());
        let current = view.word(CURRENT);
        let seen = current.load(Ordering::Acquire);
        if seen >> GENERATION_BITS != self.epoch {
            return Err(Error::Fenced);
        }
        let (stamp, length_word, sum) = view.head(slot);
        stamp.store(0, Ordering::Relaxed);
        fence(Ordering::Release);
        for (to, word) in view.payload(slot).iter().zip(to_words(payload)) {
            to.store(word, Ordering::Relaxed);
        }
        length_word.store(length, Ordering::Relaxed);
        sum.store(checksum(generation, length, to_words(payload)), Ordering::Relaxed);
        stamp.store(generation, Ordering::Release);
        let published = self.epoch << GENERATION_BITS | generation;
        current.compare_exchange(seen, published, Ordering::AcqRel, Ordering::Acquire).map_err(|_| Error::Fenced)?;
        self.next = generation + 1;
        self.say_alive();
        map::wake(current);
        Ok(generation)
    }

    /// Says that the writer lives, and publishes again what it published last if that is not what a reader finds. One that
    /// is fenced does neither; its next `publish` tells it so.
    pub fn heartbeat(&mut self) {
        let current = View(self.map.words()).word(CURRENT).load(Ordering::Acquire);
        if current >> GENERATION_BITS != self.epoch {
            return;
        }
        self.say_alive();
        let Some((payload, length)) = self.published.take() else { return };
        if !self.is_in_force(generation_of(current), &payload, length) {
            // Fenced just now, or no memory: the next publish or heartbeat meets the same and says so, or succeeds.
            let _ = self.put(&payload, length);
        }
        self.published = Some((payload, length));
    }

    fn is_in_force(&self, current: u64, payload: &[u8], length: u64) -> bool {
        let view = View(self.map.words());
        let generation = self.next - 1;
        let (stamp, length_word, sum) = view.head(slot_of(generation));
        current == generation
            && stamp.load(Ordering::Acquire) == generation
            && length_word.load(Ordering::Relaxed) == length
            && sum.load(Ordering::Relaxed) == checksum(generation, length, to_words(payload))
            && to_words(payload)
                .zip(view.payload(slot_of(generation)))
                .all(|(word, held)| held.load(Ordering::Relaxed) == word)
    }

    /// Readers only report it, they never act on it.
    fn say_alive(&self) {
        View(self.map.words()).word(HEARTBEAT).store(clock::unix_ms(), Ordering::Relaxed);
    }
}

/// A reader of a table; any number of them, in any process.
#[derive(Debug)]
pub struct Reader {
    map: Mapping,
    /// *Current* at the last good read.
    seen: AtomicU64,
}

impl Reader {
    /// A reader of `kind` over a mapping.
    ///
    /// # Errors
    /// `Layout` for a foreign or incompatible segment.
    pub fn new(map: Mapping, kind: Kind) -> Result<Self, Error> {
        layout::check(map.words(), &format!("table.{}", kind.name()))?;
        Ok(Reader { map, seen: AtomicU64::new(0) })
    }

    /// The generation in force; 0 = nothing was ever published. One acquire load.
    #[must_use]
    pub fn generation(&self) -> u64 {
        generation_of(View(self.map.words()).word(CURRENT).load(Ordering::Acquire))
    }

    /// The writer and its last heartbeat (unix ms).
    #[must_use]
    pub fn writer(&self) -> (Owner, u64) {
        let view = View(self.map.words());
        (Owner(view.word(WRITER).load(Ordering::Relaxed)), view.word(HEARTBEAT).load(Ordering::Relaxed))
    }

    /// Which writer the table has now, counted since the segment was laid out; 0 before the first.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        View(self.map.words()).word(CURRENT).load(Ordering::Acquire) >> GENERATION_BITS
    }

    /// Copies the snapshot in force, with its generation.
    ///
    /// # Errors
    /// [`ReadError`]; `Lapped` is worth another try.
    pub fn read(&self) -> Result<(u64, Snapshot), ReadError> {
        let mut words = Vec::new();
        let (generation, length) = self.examine(|word| words.push(word))?;
        if length == ABSENT {
            return Ok((generation, Snapshot::Absent));
        }
        let mut payload: Vec<u8> = words.iter().flat_map(|w: &u64| w.to_le_bytes()).collect();
        payload.truncate(usize::try_from(length).unwrap_or(usize::MAX));
        Ok((generation, Snapshot::Payload(payload)))
    }

    /// Whether the snapshot in force could be read, without keeping any of it: damage rings no bell.
    ///
    /// # Errors
    /// As [`Reader::read`].
    pub fn check(&self) -> Result<(), ReadError> {
        self.examine(|_| ()).map(|_| ())
    }

    /// Shows every word of the snapshot in force to `each`; its generation and length, if they can be believed.
    fn examine(&self, mut each: impl FnMut(u64)) -> Result<(u64, u64), ReadError> {
        let view = View(self.map.words());
        let current = view.word(CURRENT).load(Ordering::Acquire);
        let generation = generation_of(current);
        let seen = self.seen.load(Ordering::Relaxed);
        if seen >> GENERATION_BITS == current >> GENERATION_BITS && seen > current {
            return Err(self.lapped_or_damaged(generation));
        }
        if generation == 0 {
            // No writer goes back to where nothing was published, and no slot vouches for it.
            return if seen == 0 { Ok((0, ABSENT)) } else { Err(self.lapped_or_damaged(generation)) };
        }
        let slot = slot_of(generation);
        let (stamp, length_word, sum) = view.head(slot);
        if stamp.load(Ordering::Acquire) != generation {
            return Err(self.lapped_or_damaged(generation));
        }
        let length = length_word.load(Ordering::Relaxed);
        let expected = sum.load(Ordering::Relaxed);
        let bytes = if length == ABSENT { 0 } else { usize::try_from(length).unwrap_or(usize::MAX) };
        if bytes > SLOT_BYTES {
            return Err(self.lapped_or_damaged(generation));
        }
        let words = view.payload(slot).iter().take(bytes.div_ceil(8)).map(|w| w.load(Ordering::Relaxed));
        let found = checksum(generation, length, words.inspect(|&word| each(word)));
        fence(Ordering::Acquire);
        if stamp.load(Ordering::Acquire) != generation || found != expected {
            return Err(self.lapped_or_damaged(generation));
        }
        self.seen.store(current, Ordering::Relaxed);
        Ok((generation, length))
    }

    fn lapped_or_damaged(&self, generation: u64) -> ReadError {
        if self.generation() == generation { ReadError::Damaged } else { ReadError::Lapped }
    }

    /// Blocks until *current* differs from what it was at `generation`, or `timeout` passes. A read-only mapping will do.
    pub fn wait(&self, generation: u64, timeout: std::time::Duration) {
        let current = View(self.map.words()).word(CURRENT);
        let seen = current.load(Ordering::Acquire);
        if generation_of(seen) != generation {
            return;
        }
        map::wait(current, seen, timeout);
    }
}
