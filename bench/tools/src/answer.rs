//! Where an HTTP answer ends. The web server of the benchmarks sends a Content-Length.

/// The most bytes of an answer.
pub(crate) const MOST: usize = 4096;

/// Whether the answer is complete; an error if it is none of the web server's good ones.
pub(crate) fn is_complete(got: &[u8]) -> Result<bool, &'static str> {
    let begin = b"HTTP/1.1 200 ";
    let seen = got.len().min(begin.len());
    if got[..seen] != begin[..seen] {
        return Err("not the answer 200");
    }
    let Some(head) = got.windows(4).position(|four| four == b"\r\n\r\n") else {
        return if got.len() < MOST { Ok(false) } else { Err("an endless head") };
    };
    let name = b"Content-Length: ";
    let at = got[..head].windows(name.len()).position(|some| some == name).ok_or("no Content-Length")?;
    let digits = got[at + name.len()..head].iter().take_while(|digit| digit.is_ascii_digit());
    let length = digits.fold(0_usize, |sum, digit| sum.saturating_mul(10).saturating_add(usize::from(digit - b'0')));
    Ok(got.len() >= head.saturating_add(4).saturating_add(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_with_the_last_byte_of_its_body() {
        let whole = b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 6\r\nConnection: close\r\n\r\nhello\n";
        for end in 0..whole.len() {
            assert_eq!(is_complete(&whole[..end]), Ok(false), "{end} bytes");
        }
        assert_eq!(is_complete(whole), Ok(true));
    }

    #[test]
    fn other_answers_are_errors() {
        assert!(is_complete(b"HTTP/1.1 502 Bad Gateway\r\n\r\n").is_err());
        assert!(is_complete(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }
}
