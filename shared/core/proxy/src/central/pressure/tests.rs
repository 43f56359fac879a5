//! The reader, on trees of files that were recorded, on this host, and on a process that really starves.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod live;
mod texts;
mod trees;
