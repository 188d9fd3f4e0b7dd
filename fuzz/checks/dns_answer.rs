//! Any bytes as the answer to a query: only what was asked for comes out, and another id or question makes it a stranger's.

use tcplb::discovery::dns::message::{Query, Reading, Wanted};

/// The name that the corpus answers for.
pub const NAME: &str = "web.example";

/// Fails if a promise is broken.
pub fn check(bytes: &[u8]) {
    let id = bytes.first_chunk::<2>().map_or(0, |id| u16::from_be_bytes(*id));
    for wanted in [Wanted::A, Wanted::Aaaa, Wanted::Srv] {
        for options in [true, false] {
            let query = Query::new(NAME, wanted, id, options).expect("a name");
            let reading = query.read(bytes);
            let other = Query::new(NAME, wanted, !id, options).expect("a name");
            assert_eq!(other.read(bytes), Reading::NotOurs, "another id");
            let other = Query::new("web.invalid", wanted, id, options).expect("a name");
            if let Reading::Answer(_) | Reading::Truncated = other.read(bytes) {
                assert_eq!(reading, Reading::NotOurs, "it answers two questions");
            }
            if let Reading::Answer(answer) = reading {
                assert!(answer.addresses.iter().all(|ip| match wanted {
                    Wanted::A => ip.is_ipv4(),
                    Wanted::Aaaa => ip.is_ipv6(),
                    Wanted::Srv => false,
                }));
                assert!(answer.services.is_empty() || wanted == Wanted::Srv);
                let records = !answer.addresses.is_empty() || !answer.services.is_empty();
                assert!(!records || (answer.alias.is_none() && answer.ttl.is_some()));
                assert!(answer.alias.as_deref() != Some(NAME), "an alias of itself");
            }
        }
    }
}
