//! Decodes paths and queries: first splits into segments, then percent-decodes, so that a name may contain `/`.
//!
//! Names of pools and backends are data: any text that a client encodes is decoded unchanged, or is [`Malformed`].

/// A `%` without two hex digits after it, or bytes that are not UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// The decoded segments of a path: `a` and `b` for `/a/b`, none for `/`.
pub fn segments(path: &str) -> Result<Vec<String>, Malformed> {
    let path = path.strip_prefix('/').unwrap_or(path);
    if path.is_empty() {
        return Ok(Vec::new());
    }
    path.split('/').map(decode).collect()
}

/// The decoded pairs of a query like `a=b&c`.
pub fn pairs(query: &str) -> Result<Vec<(String, String)>, Malformed> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decode(key)?, decode(value)?))
        })
        .collect()
}

fn decode(text: &str) -> Result<String, Malformed> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        decoded.push(if byte == b'%' { hex(bytes.next())? << 4 | hex(bytes.next())? } else { byte });
    }
    String::from_utf8(decoded).map_err(|_| Malformed)
}

fn hex(byte: Option<u8>) -> Result<u8, Malformed> {
    let digit = byte.and_then(|byte| char::from(byte).to_digit(16)).ok_or(Malformed)?;
    u8::try_from(digit).map_err(|_| Malformed)
}

/// Encodes a name as one segment of a path.
pub fn encode(name: &str) -> String {
    let mut encoded = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' => {
                encoded.push(char::from(byte))
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// A path with a query of those parameters that have a value. The values are encoded.
pub fn query<'a>(path: &str, parameters: impl IntoIterator<Item = (&'a str, Option<&'a str>)>) -> String {
    let given = parameters.into_iter().filter_map(|(key, value)| Some(format!("{key}={}", encode(value?))));
    let pairs: Vec<String> = given.collect();
    if pairs.is_empty() { path.to_owned() } else { format!("{path}?{}", pairs.join("&")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn addresses_decode_as_names_in_every_encoding() {
        for (path, want) in [
            ("/", &[][..]),
            ("/healthz", &["healthz"]),
            ("/p/127.0.0.1:80", &["p", "127.0.0.1:80"]),
            ("/p/%5B::1%5D:80", &["p", "[::1]:80"]),
            ("/p/[::1]:80", &["p", "[::1]:80"]),
            ("/p/unix:%2Frun%2fapp.sock", &["p", "unix:/run/app.sock"]),
            ("/p/%C3%A9/", &["p", "é", ""]),
        ] {
            assert_eq!(segments(path).unwrap(), want, "{path}");
        }
        for path in ["/%", "/%4", "/%zz", "/%+1", "/%ff", "/%C3"] {
            assert_eq!(segments(path), Err(Malformed), "{path}");
        }
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(pairs("force=true&&x&y=a%3Db"), Ok(vec![pair("force", "true"), pair("x", ""), pair("y", "a=b")]));
        assert_eq!(query("/a", [("none", None)]), "/a");
    }

    proptest! {
        #[test]
        fn any_name_round_trips_as_a_segment(name in "\\PC{1,40}") {
            prop_assert_eq!(segments(&format!("/a/{}", encode(&name))), Ok(vec!["a".to_owned(), name]));
        }

        #[test]
        fn any_value_round_trips_in_a_query(one in "\\PC{0,40}", other in "[&=+?#% /]{0,9}") {
            let path = query("/a", [("one", Some(&*one)), ("none", None), ("other", Some(&*other))]);
            let pair = |key: &str, value| (key.to_owned(), value);
            let (path, text) = path.split_once('?').unwrap();
            prop_assert_eq!((path, pairs(text)), ("/a", Ok(vec![pair("one", one), pair("other", other)])));
        }

        #[test]
        fn nothing_panics(text in ".{0,40}") {
            let _ = (segments(&text), pairs(&text));
        }
    }
}
