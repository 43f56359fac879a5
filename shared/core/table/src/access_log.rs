//! The access log: one JSON object a line, one line a request, whatever the request contained.

use std::fmt::Write;

use crate::record::AccessRecord;

/// Appends the line of `record` to `line`, newline included.
pub fn format(record: &AccessRecord<'_>, line: &mut String) {
    let t = &record.texts;
    line.push_str("{\"time\":\"");
    timestamp(record.start_ns, line);
    let _ = write!(line, "\",\"direction\":\"{}\",\"service\":", if record.outbound { "outbound" } else { "inbound" });
    string(t.service, line);
    for (name, value) in [("method", t.method), ("path", t.path), ("authority", t.authority), ("route", t.route)] {
        let _ = write!(line, ",\"{name}\":");
        string(value, line);
    }
    let _ = write!(
        line,
        ",\"protocol\":\"HTTP/1.{}\",\"status\":{},\"flags\":\"{}\",\"duration_ms\":{}.{:03},\"request_bytes\":{},\"response_bytes\":{},\"upstream\":",
        record.version,
        record.status,
        if record.flag.name().is_empty() { "-" } else { record.flag.name() },
        record.duration_ns / 1_000_000,
        record.duration_ns / 1_000 % 1_000,
        record.request_bytes,
        record.response_bytes,
    );
    string(t.upstream, line);
    if !t.client.is_empty() {
        line.push_str(",\"client\":");
        string(t.client, line);
    }
    line.push_str(",\"request_id\":");
    string(t.request_id, line);
    if record.trace_id != 0 {
        let _ = write!(line, ",\"trace_id\":\"{:032x}\",\"span_id\":\"{:016x}\"", record.trace_id, record.span_id);
    }
    if record.truncated {
        line.push_str(",\"truncated\":true");
    }
    line.push_str("}\n");
}

/// A JSON string; control characters and quotes are escaped, so that one request is one line.
fn string(text: &str, line: &mut String) {
    line.push('"');
    for c in text.chars() {
        match c {
            '"' => line.push_str("\\\""),
            '\\' => line.push_str("\\\\"),
            c if c.is_control() || c == '\u{2028}' || c == '\u{2029}' => {
                let _ = write!(line, "\\u{:04x}", c as u32);
            }
            c => line.push(c),
        }
    }
    line.push('"');
}

/// RFC 3339 in UTC with milliseconds. Days to date: Howard Hinnant's `civil_from_days`.
fn timestamp(unix_ns: u64, line: &mut String) {
    let ms = unix_ns / 1_000_000;
    let (days, in_day) = (ms / 86_400_000, ms % 86_400_000);
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let _ = write!(
        line,
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
        in_day / 3_600_000,
        in_day / 60_000 % 60,
        in_day / 1_000 % 60,
        in_day % 1_000
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Texts;

    fn line(record: &AccessRecord<'_>) -> String {
        let mut line = String::new();
        format(record, &mut line);
        line
    }

    #[test]
    fn dates_are_right_at_the_corners() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (1_735_689_599, "2024-12-31T23:59:59.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ] {
            let mut text = String::new();
            timestamp(seconds * 1_000_000_000, &mut text);
            assert_eq!(text, expected);
        }
    }

    #[test]
    fn a_request_cannot_forge_a_second_line() {
        let texts = Texts { path: "/a\r\n{\"status\":200}\u{2028}\"\\", ..Texts::default() };
        let line = line(&AccessRecord { texts, ..AccessRecord::default() });
        assert_eq!(line.matches('\n').count(), 1);
        assert!(line.contains(r#""path":"/a\u000d\u000a{\"status\":200}\u2028\"\\""#), "{line}");
    }
}
