//! What the proxy says itself: a status, the reason's flag, and one line of JSON; or what a route says (a redirect, the
//! answer to a preflight), which has fields and no body.

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
    /// One line for a person; contains nothing of the request but what is safe in JSON. Empty: no body.
    pub message: String,
    /// Further fields, each line ended.
    pub fields: String,
}

impl Answer {
    /// An answer from its parts.
    pub fn new(status: u16, flag: Flag, message: impl Into<String>) -> Self {
        Answer { status, flag, message: message.into(), fields: String::new() }
    }

    /// What a route answers.
    pub fn of_route(status: u16, fields: String) -> Self {
        Answer { status, flag: Flag::None, message: String::new(), fields }
    }

    /// The same with one more field.
    pub fn with(mut self, name: &str, value: impl std::fmt::Display) -> Self {
        let _ = write!(self.fields, "{name}: {value}\r\n");
        self
    }

    /// Appends it, head and body, with further fields that are written already; `head_only` for HEAD.
    pub fn write(&self, out: &mut Vec<u8>, further: &[u8], head_only: bool, keep_alive: bool) {
        let body = if self.message.is_empty() {
            String::new()
        } else {
            format!(
                "{{\"status\":{},\"reason\":\"{}\",\"message\":\"{}\"}}\n",
                self.status,
                self.flag.name(),
                self.message
            )
        };
        let mut head = String::with_capacity(192);
        let _ = write!(head, "HTTP/1.1 {} {}\r\n", self.status, phrase(self.status));
        if !body.is_empty() {
            head.push_str("content-type: application/json\r\n");
        }
        if self.status != 204 {
            let _ = write!(head, "content-length: {}\r\n", body.len());
        }
        if self.flag != Flag::None {
            let _ = write!(head, "x-pannier-reason: {}\r\n", self.flag.name());
        }
        head.push_str(&self.fields);
        out.extend_from_slice(head.as_bytes());
        out.extend_from_slice(further);
        out.extend_from_slice(if keep_alive { b"\r\n" } else { b"connection: close\r\n\r\n" });
        if !head_only {
            out.extend_from_slice(body.as_bytes());
        }
    }
}

/// A text that may stand in a JSON string as it is: everything else becomes `?`.
pub fn harmless(text: &str) -> String {
    text.chars().take(128).map(|c| if c.is_ascii_graphic() && c != '"' && c != '\\' { c } else { '?' }).collect()
}
