//! Records of the access log: whatever they hold, one record is one line, and one that was written is read back.

use pannier_table::access_log;
use pannier_table::record::{AccessRecord, Buffer, Flag, MAX_RECORD_LINES, Texts};

const EMPTY: Buffer = [0; MAX_RECORD_LINES * 8];

/// The bytes as a record of a ring that nobody can be trusted to have written; and as the texts of a request.
pub fn access_log(data: &[u8]) {
    let words: Vec<u64> = data
        .chunks(8)
        .map(|chunk| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            u64::from_le_bytes(word)
        })
        .collect();
    let mut scratch = Vec::new();
    if let Some(record) = AccessRecord::decode(&words, &mut scratch) {
        is_one_line(&record);
    }

    let text = String::from_utf8_lossy(data);
    let part = |index: usize| text.split('\u{1f}').nth(index).unwrap_or("");
    let texts = Texts {
        method: part(0),
        path: part(1),
        authority: part(2),
        service: part(3),
        route: part(4),
        upstream: part(5),
        request_id: part(6),
        trace_state: part(7),
        client: part(8),
    };
    let numbers = words.iter().fold(0_u64, |sum, word| sum.rotate_left(7) ^ word);
    let written = AccessRecord {
        outbound: numbers & 1 != 0,
        sampled: numbers & 2 != 0,
        flag: Flag::from_number((numbers >> 8) as u8),
        status: (numbers >> 16) as u16,
        version: (numbers >> 32) as u8,
        start_ns: numbers,
        duration_ns: numbers.rotate_left(32),
        request_bytes: numbers.rotate_left(16),
        response_bytes: numbers.rotate_left(48),
        trace_id: u128::from(numbers) << 64 | u128::from(!numbers),
        span_id: numbers,
        parent_id: !numbers,
        texts,
        truncated: false,
    };
    is_one_line(&written);
    let mut buffer = EMPTY;
    let words = written.encode(&mut buffer).to_vec();
    let mut scratch = Vec::new();
    let read = AccessRecord::decode(&words, &mut scratch).expect("what was written can be read");
    assert_eq!(
        AccessRecord { texts: Texts::default(), truncated: false, ..read },
        AccessRecord { texts: Texts::default(), ..written }
    );
    let whole = |t: &Texts<'_>| {
        [t.method, t.path, t.authority, t.service, t.route, t.upstream, t.request_id, t.trace_state].map(String::from)
    };
    for (kept, given) in whole(&read.texts).iter().zip(whole(&texts)) {
        assert!(given.starts_with(kept) && (read.truncated || *kept == given));
    }
}

fn is_one_line(record: &AccessRecord<'_>) {
    let mut line = String::from("before");
    access_log::format(record, &mut line);
    let own = line.strip_prefix("before").expect("what was there stays");
    let inside = own.strip_suffix('\n').expect("it ends its line");
    assert!(!inside.contains(|c: char| c.is_control() || c == '\u{2028}' || c == '\u{2029}'));
    assert!(inside.starts_with('{') && inside.ends_with('}'));
    let mut quotes = 0;
    let mut escaped = false;
    for c in inside.chars() {
        quotes += usize::from(c == '"' && !escaped);
        escaped = c == '\\' && !escaped;
    }
    assert!(quotes % 2 == 0 && !escaped, "{inside:?}");
}
