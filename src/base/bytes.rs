//! Bytes as text: with the escapes `\r`, `\n`, `\t`, `\xHH` and `\\` for what a line of text can't hold.

use super::text::is_hidden;
use std::fmt::Write;

/// The bytes that a text with escapes stands for.
pub fn unescaped(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        bytes.extend_from_slice(before.as_bytes());
        let mut letters = after.chars();
        let byte = match letters.next() {
            Some('r') => Some(b'\r'),
            Some('n') => Some(b'\n'),
            Some('t') => Some(b'\t'),
            Some('\\') => Some(b'\\'),
            // `from_str_radix` takes a sign too.
            Some('x') => letters
                .as_str()
                .get(..2)
                .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
                .and_then(|digits| u8::from_str_radix(digits, 16).ok()),
            _ => None,
        };
        let Some(byte) = byte else {
            // Not the whole text: it may have a password in it.
            let wrong: String = after.chars().take(if after.starts_with('x') { 3 } else { 1 }).collect();
            return Err(format!("expected \\r, \\n, \\t, \\xHH or \\\\ after a backslash, got `\\{wrong}`"));
        };
        bytes.push(byte);
        let used = if after.starts_with('x') { 3 } else { 1 };
        rest = after.get(used..).unwrap_or_default();
    }
    bytes.extend_from_slice(rest.as_bytes());
    Ok(bytes)
}

/// Bytes as a text with escapes, on one line. [`unescaped`] reads it as the same bytes.
pub fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    let hex = |text: &mut String, bytes: &[u8]| {
        for byte in bytes {
            // Writing to a string can't fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    };
    for chunk in bytes.utf8_chunks() {
        for letter in chunk.valid().chars() {
            match letter {
                '\r' => text.push_str("\\r"),
                '\n' => text.push_str("\\n"),
                '\t' => text.push_str("\\t"),
                '\\' => text.push_str("\\\\"),
                hidden if is_hidden(hidden) => hex(&mut text, hidden.encode_utf8(&mut [0; 4]).as_bytes()),
                letter => text.push(letter),
            }
        }
        hex(&mut text, chunk.invalid());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_escape_stands_for_its_byte() {
        for (text, bytes) in [
            ("PING\\r\\n", &b"PING\r\n"[..]),
            ("PING\r\n", b"PING\r\n"),
            ("\\x00\\xfF\\\\x41\\t", b"\0\xff\\x41\t"),
            ("größe", "größe".as_bytes()),
            ("", b""),
        ] {
            assert_eq!(unescaped(text).as_deref(), Ok(bytes), "{text}");
        }
        for text in ["\\", "a\\q", "\\x", "\\x4", "\\x4g", "\\x+4", "\\xé", "\\0"] {
            let why = unescaped(text).unwrap_err();
            assert!(why.starts_with("expected \\r, \\n, \\t, \\xHH or \\\\ after a backslash, got `"), "{why}");
        }
        assert!(!unescaped("AUTH hunter2\\q more").unwrap_err().contains("hunter2"));
    }

    #[test]
    fn what_a_line_can_t_hold_is_escaped() {
        assert_eq!(
            escaped(b"+OK \\ \r\n\t\0\x1b[2K\xff\xe2\x80\xaegr\xc3\xb6"),
            "+OK \\\\ \\r\\n\\t\\x00\\x1b[2K\\xff\\xe2\\x80\\xaegrö"
        );
    }

    proptest! {
        #[test]
        fn escaped_bytes_are_read_as_the_same(bytes in prop::collection::vec(any::<u8>(), 0..40), text in "(?s).{0,20}") {
            for bytes in [&bytes[..], text.as_bytes()] {
                let shown = escaped(bytes);
                prop_assert!(!shown.chars().any(is_hidden), "{:?}", shown);
                prop_assert_eq!(unescaped(&shown), Ok(bytes.to_owned()));
            }
        }

        #[test]
        fn any_text_is_read_or_refused(text in "(\\\\|x|[0-9a-f]|é|r){0,12}") {
            let _ = unescaped(&text);
        }
    }
}
