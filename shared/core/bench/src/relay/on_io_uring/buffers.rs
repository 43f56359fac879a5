//! Buffers that the kernel picks from when something arrives: a ring of their addresses, shared with it.

use std::error::Error;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};

use crate::relay::Refused;

/// The group of the only ring.
pub const GROUP: u16 = 0;
const COUNT: u16 = 512;
const SIZE: usize = 16 * 1024;
const TABLE: usize = COUNT as usize * size_of::<BufRingEntry>();

/// `COUNT` buffers of `SIZE` bytes and the ring of those that are free, in one mapping that lives as long as the process.
pub struct Buffers {
    start: NonNull<u8>,
    tail: u16,
    free: u16,
}

impl Buffers {
    /// Maps the buffers, makes them known to the ring and gives all of them to it.
    ///
    /// # Errors
    /// No memory, or [`Refused`].
    pub fn register(ring: &IoUring) -> Result<Self, Box<dyn Error>> {
        let length = TABLE + usize::from(COUNT) * SIZE;
        // SAFETY: a new anonymous mapping, which nobody else knows and nothing unmaps.
        let start =
            unsafe { mmap_anonymous(ptr::null_mut(), length, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)? };
        let start = NonNull::new(start.cast::<u8>()).ok_or("no mapping")?;
        // SAFETY: the table is page-aligned, holds `COUNT` entries and is never unmapped.
        unsafe { ring.submitter().register_buf_ring_with_flags(start.as_ptr() as u64, COUNT, GROUP, 0) }
            .map_err(|error| Refused(format!("rings of buffers: {error}")))?;
        let mut buffers = Self { start, tail: 0, free: 0 };
        for buffer in 0..COUNT {
            buffers.give_back(buffer);
        }
        Ok(buffers)
    }

    /// Notes that the kernel has taken one.
    pub fn taken(&mut self) {
        self.free = self.free.saturating_sub(1);
    }

    /// Whether the kernel has one to pick.
    pub fn any_free(&self) -> bool {
        self.free > 0
    }

    /// Gives one to the kernel, which may write into it at once.
    pub fn give_back(&mut self, buffer: u16) {
        let place = usize::from(self.tail % COUNT);
        let address = self.at(buffer, 0) as u64;
        // SAFETY: `place` is below `COUNT`, so the entry lies in the table; the kernel reads it only after the tail has
        // passed it. The tail is a field of the first entry that an entry's setters do not touch, and it is aligned.
        unsafe {
            let table = self.start.as_ptr().cast::<BufRingEntry>();
            let entry = &mut *table.add(place);
            entry.set_addr(address);
            entry.set_len(SIZE as u32);
            entry.set_bid(buffer);
            self.tail = self.tail.wrapping_add(1);
            AtomicU16::from_ptr(BufRingEntry::tail(table).cast_mut()).store(self.tail, Ordering::Release);
        }
        self.free += 1;
    }

    /// Where a buffer's byte is.
    pub fn at(&self, buffer: u16, offset: usize) -> *const u8 {
        let offset = TABLE + usize::from(buffer % COUNT) * SIZE + offset.min(SIZE);
        self.start.as_ptr().wrapping_add(offset)
    }
}
