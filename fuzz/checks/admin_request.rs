//! Any bytes from a peer of the admin API, in any pieces. They make one request or one refusal, and a request gets a
//! complete answer. What calls then do is not here: they send commands, as other callers of control do.
//!
//! The first byte says how long the pieces are.

use tcplb::admin::http::Response;
use tcplb::admin::incoming::{BODY_MAX, HEAD_MAX, Incoming, Progress, Refusal, Request};
use tcplb::admin::{changes, register, routes, target};
use tcplb::config::check;

/// Reads a request from a peer that sends these bytes, at most `piece` at a time, and then finishes.
fn read(sent: &[u8], piece: usize) -> Result<Request, Refusal> {
    let (mut incoming, mut left, mut continued) = (Incoming::default(), sent, false);
    while !left.is_empty() {
        let (now, later) = left.split_at(piece.min(left.len()).min(incoming.room()));
        left = later;
        let taken = sent.len() - left.len();
        assert!(taken <= HEAD_MAX + BODY_MAX, "it read {taken} bytes");
        match incoming.take(now)? {
            Progress::More => {}
            Progress::MoreOnContinue => assert!(!std::mem::replace(&mut continued, true), "leave is given once"),
            Progress::Whole(request) => return Ok(request),
        }
    }
    Err(incoming.cut_short())
}

/// Fails if a promise is broken.
pub fn check(bytes: &[u8]) {
    let Some((first, sent)) = bytes.split_first() else { return };
    let ask = |piece| read(sent, piece);
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
        Some("Change") => match changes::weight_and_state(call.body) {
            Ok(change) => assert_ne!(change, (None, None)),
            Err(refusal) => is_whole(&refusal),
        },
        Some("Registration") => {
            if let Err(register::Rejected { status, title: why }) = register::registration(call.body) {
                assert!(matches!(status, 400 | 403) && !why.is_empty());
            }
        }
        other => assert_eq!(other, None, "a body without a reader"),
    }
}

/// An answer with a reason, whose head holds no further line.
fn is_whole(refusal: &Response) {
    assert!((400..500).contains(&refusal.status));
    let why: serde_json::Value = serde_json::from_slice(&refusal.body).expect("JSON");
    assert!(why["error"].as_str().is_some_and(|why| !why.is_empty()));
    assert!(refusal.headers.iter().all(|(_, value)| !value.contains(['\r', '\n'])));
}
