//! What a stranger may make us hold.

/// Fields of one head or of one trailer section.
pub const FIELDS: usize = 100;
/// Elements of `Connection`: each may have to be compared with each field.
pub const CONNECTION_OPTIONS: usize = 100;
/// The request line: method, target of 8 KiB, version.
pub const REQUEST_LINE: usize = TARGET + 64;
/// The target of a request.
pub const TARGET: usize = 8 * 1024;
/// All fields of a head together.
pub const FIELD_BYTES: usize = 60 * 1024;
/// A whole head.
pub const HEAD: usize = REQUEST_LINE + FIELD_BYTES;
/// All chunk extensions of one body together; and its trailer section.
pub const CHUNK_OVERHEAD: usize = 16 * 1024;
/// A request id that is kept.
pub const REQUEST_ID: usize = 128;
