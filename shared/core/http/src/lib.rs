//! HTTP/1.1 without I/O: bytes in, a parsed model or a refusal out; the model in, bytes out.
//!
//! Rules:
//! - whatever could be read in two ways is refused and the connection closed (request smuggling lives on tolerance);
//! - what is forwarded is serialised again from the model, never copied through;
//! - nothing is looked at twice: a head is scanned as it arrives and parsed once, when it is whole;
//! - limits are constants of [`limits`], and each has its own answer.
//!
//! Refused: a parser of our own for the field grammar (`httparse` is fuzzed and kept by the authors of hyper); a header map
//! (a proxy looks at a dozen names and forwards the rest as they are).

pub mod authority;
pub mod body;
pub mod chunked;
pub mod edits;
pub mod fields;
pub mod forwarding;
pub mod head;
pub mod limits;
pub mod refusal;
pub mod request;
pub mod response;
pub mod target;
