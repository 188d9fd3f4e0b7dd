//! Any bytes: the parser does not change its mind as they grow, and what it read can be passed on.

use tcplb::proto::proxy::{Announced, HEADER_MAX, Parsed, parse};

/// Fails if a promise is broken.
pub fn check(bytes: &[u8]) {
    let whole = parse(bytes);
    let decided = (0..=bytes.len()).map(|end| parse(&bytes[..end])).find(|so_far| *so_far != Parsed::More);
    assert_eq!(decided.unwrap_or(Parsed::More), whole, "another answer in pieces");
    match whole {
        Parsed::More => assert!(bytes.len() < HEADER_MAX, "it asks for more than a header can be"),
        Parsed::Bad(_) => {}
        Parsed::Header { consumed, header } => {
            assert!(consumed <= bytes.len() && consumed <= HEADER_MAX);
            let again = header.v2();
            assert_eq!(parse(&again), Parsed::Header { consumed: again.len(), header: header.clone() });
            let line = header.v1();
            let Parsed::Header { consumed, header: read_again } = parse(&line) else { panic!("no line: {line:?}") };
            assert_eq!(consumed, line.len());
            if matches!(header.announced, Announced::Inet { .. }) {
                assert_eq!(read_again.announced, header.announced);
            }
        }
    }
}
