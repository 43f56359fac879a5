//! Values of single fields, and other short texts.

use pannier_decide::address::Address;
use pannier_decide::random::Random;
use pannier_decide::{deadline, hex, trace};
use pannier_http::edits::HeaderEdits;
use pannier_http::{authority, fields, target};

/// `host[:port]`: written again from its parts, it is the same.
pub fn authority(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _ = Address::parse(text);
    let Some(parsed) = authority::parse(text) else { return };
    assert!(!parsed.host.is_empty() && text.starts_with(parsed.host));
    assert!(parsed.host.bytes().all(|byte| byte.is_ascii_graphic() && !b"@/?#\\".contains(&byte)), "{text:?}");
    let again = match parsed.port {
        Some(port) => format!("{}:{port}", parsed.host),
        None => parsed.host.to_string(),
    };
    assert_eq!(authority::parse(&again), Some(parsed), "{text:?}");
}

/// Deadlines, lengths, lists, trace parents, edits, targets: any text is read or refused, and a number means itself.
pub fn values(data: &[u8]) {
    let half = data.len() / 2;
    if let Some(left) = deadline::left_ms(Some(data), None) {
        assert_eq!(std::str::from_utf8(data).ok().and_then(|text| text.parse().ok()), Some(left));
    }
    let both = deadline::left_ms(Some(&data[..half]), Some(&data[half..]));
    let each = [deadline::left_ms(Some(&data[..half]), None), deadline::left_ms(None, Some(&data[half..]))];
    assert_eq!(both, each.into_iter().flatten().min());

    if let Ok(length) = fields::content_length(data) {
        assert!(data.iter().all(u8::is_ascii_digit));
        assert_eq!(std::str::from_utf8(data).ok().and_then(|text| text.parse().ok()), Some(length));
        let mut out = Vec::new();
        fields::write_decimal(&mut out, length);
        assert_eq!(fields::content_length(&out), Ok(length));
    }

    let mut connection = fields::Connection::default();
    let _ = connection.add(data);
    assert!(
        fields::tokens(data).all(|token| !token.is_empty() && !token.contains(&b',') && token.trim_ascii() == token)
    );

    if let Some((trace_id, parent_id, sampled)) = trace::parse(data) {
        let span = trace::Span { trace_id, span_id: parent_id, parent_id: 0, sampled };
        assert_eq!(trace::parse(&span.header()), Some((trace_id, parent_id, sampled)));
        assert_eq!(&span.header()[3..52], &data[3..52], "the same digits");
    }
    let span = trace::continue_or_start(Some(data), trace::threshold(0.5), &mut Random::new(1));
    assert!(span.trace_id != 0 && span.span_id != 0);
    for word in data.chunks_exact(8) {
        let number = u64::from_le_bytes(word.try_into().unwrap());
        assert_eq!(u64::from_str_radix(std::str::from_utf8(&hex::digits(number)).unwrap(), 16), Ok(number));
    }

    let Ok(text) = std::str::from_utf8(data) else { return };
    let (path, query) = target::split(text);
    assert!(text.starts_with(path) && text.ends_with(query) && !path.contains('?'));
    let (name, value) = text.split_once(':').unwrap_or((text, ""));
    let none = || std::iter::empty();
    if let Ok(edits) = HeaderEdits::try_new([(name, value)].into_iter(), none(), std::iter::empty()) {
        let mut out = Vec::new();
        edits.write(&mut out);
        assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), 1, "one field, one line");
        assert!(edits.drops(&name.to_ascii_uppercase()));
        assert_eq!(fields::name(name), fields::Name::Other);
    }
}
