//! What the proxy says itself: a status, the reason's flag, and one line of JSON.

use std::fmt::Write;

use pannier_http::response::phrase;
use pannier_table::record::Flag;

/// An answer of the proxy's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The reason, as `x-pannier-reason` and the access log show it.
    pub flag: Flag,
    /// One line for a person; contains nothing of the request but what is safe in JSON.
    pub message: String,
}

impl Answer {
    /// An answer from its parts.
    pub fn new(status: u16, flag: Flag, message: impl Into<String>) -> Self {
        Answer { status, flag, message: message.into() }
    }

    /// Appends it, head and body; `head_only` for HEAD.
    pub fn write(&self, out: &mut Vec<u8>, head_only: bool, keep_alive: bool) {
        let body = format!(
            "{{\"status\":{},\"reason\":\"{}\",\"message\":\"{}\"}}\n",
            self.status,
            self.flag.name(),
            self.message
        );
        let mut head = String::with_capacity(192);
        let _ = write!(
            head,
            "HTTP/1.1 {} {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nx-pannier-reason: {}\r\n{}\r\n",
            self.status,
            phrase(self.status),
            body.len(),
            self.flag.name(),
            if keep_alive { "" } else { "connection: close\r\n" }
        );
        out.extend_from_slice(head.as_bytes());
        if !head_only {
            out.extend_from_slice(body.as_bytes());
        }
    }
}

/// A text that may stand in a JSON string as it is: everything else becomes `?`.
pub fn harmless(text: &str) -> String {
    text.chars().take(128).map(|c| if c.is_ascii_graphic() && c != '"' && c != '\\' { c } else { '?' }).collect()
}
