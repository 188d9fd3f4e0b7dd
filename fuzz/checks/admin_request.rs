//! Any bytes from a peer of the admin API, in any pieces: one request or one refusal, and what it asks for is understood or
//! refused in a whole answer. What calls then do is not here: it is a command like everybody else's.
//!
//! The first byte says how long the pieces are.

use std::io::{self, Read, Write};
use std::time::Duration;
use tcplb::admin::http::{BODY_MAX, Deadline, HEAD_MAX, Refusal, Request, Response, Stream, read};
use tcplb::admin::{changes, register, routes, target};
use tcplb::config::check;

/// A peer that sends its bytes in pieces, then finishes.
struct Peer<'a> {
    left: &'a [u8],
    piece: usize,
}

impl Read for Peer<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let count = self.piece.min(to.len()).min(self.left.len());
        let (now, left) = self.left.split_at(count);
        to[..count].copy_from_slice(now);
        self.left = left;
        Ok(count)
    }
}

impl Write for Peer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        assert_eq!(bytes, b"HTTP/1.1 100 Continue\r\n\r\n");
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for Peer<'_> {
    fn limit_read(&mut self, _: Duration) -> io::Result<()> {
        Ok(())
    }

    fn limit_write(&mut self, _: Duration) -> io::Result<()> {
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Fails if a promise is broken.
pub fn check(bytes: &[u8]) {
    let Some((first, sent)) = bytes.split_first() else { return };
    let ask = |piece| {
        let mut peer = Peer { left: sent, piece };
        let got = read(&mut peer, Deadline::after(Duration::from_secs(60)));
        let taken = sent.len() - peer.left.len();
        assert!(taken <= HEAD_MAX + BODY_MAX, "it read {taken} bytes");
        got
    };
    let whole = ask(usize::MAX);
    match (&whole, &ask(usize::from(*first).max(1))) {
        (Ok(one), Ok(other)) => assert_eq!(one, other, "another request in pieces"),
        (Err(Refusal::Answer(one, _)), Err(Refusal::Answer(other, _))) => assert_eq!(one, other, "another refusal"),
        (Err(Refusal::Gone), Err(Refusal::Gone)) => {}
        (one, other) => panic!("{one:?}, in pieces {other:?}"),
    }
    if let Ok(request) = whole {
        understand(&request);
    }
}

fn understand(request: &Request) {
    assert!(request.path.starts_with('/') && request.body.len() <= BODY_MAX);
    let (route, call) = match routes::find(request) {
        Ok(found) => found,
        Err(refusal) => return is_whole(&refusal),
    };
    for name in &call.names {
        let path = format!("/{}", target::encode(name));
        assert_eq!(target::segments(&path), Ok(if path == "/" { Vec::new() } else { vec![name.clone()] }));
    }
    match route.body {
        Some("NewBackend") => match changes::new_backend(call.body) {
            Ok(backend) => assert_eq!(check::name(&backend.name), Ok(()), "a name that the file would not take"),
            Err(refusal) => is_whole(&refusal),
        },
        Some("Change") => match changes::wish(call.body) {
            Ok(wish) => assert_ne!(wish, (None, None)),
            Err(refusal) => is_whole(&refusal),
        },
        Some("Registration") => {
            if let Err((status, why)) = register::registration(call.body) {
                assert!(matches!(status, 400 | 403) && !why.is_empty());
            }
        }
        other => assert_eq!(other, None, "a body that nobody reads"),
    }
}

/// An answer that says why, and whose head nobody can add to.
fn is_whole(refusal: &Response) {
    assert!((400..500).contains(&refusal.status));
    let why: serde_json::Value = serde_json::from_slice(&refusal.body).expect("JSON");
    assert!(why["error"].as_str().is_some_and(|why| !why.is_empty()));
    assert!(refusal.headers.iter().all(|(_, value)| !value.contains(['\r', '\n'])));
}
