//! Any bytes: the parser neither panics nor changes its mind as they grow, and what it read can be passed on.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tcplb::proto::proxy::{Parsed, parse};

fuzz_target!(|bytes: &[u8]| {
    let whole = parse(bytes);
    let decided = (0..=bytes.len()).map(|end| parse(&bytes[..end])).find(|so_far| *so_far != Parsed::More);
    assert_eq!(decided.unwrap_or(Parsed::More), whole);
    if let Parsed::Header { consumed, header } = whole {
        assert!(consumed <= bytes.len());
        let again = header.v2();
        assert_eq!(parse(&again), Parsed::Header { consumed: again.len(), header: header.clone() });
        assert!(matches!(parse(&header.v1()), Parsed::Header { .. }));
    }
});
