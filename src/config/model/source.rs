//! Where the connections to a pool's backends come from.

use crate::base::Endpoint;
use std::fmt;
use std::net::IpAddr;

/// The local address of connections to backends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SourceAddress {
    /// The kernel chooses it.
    #[default]
    System,
    /// That of the client (`client`).
    Client,
    /// One of these, in turn.
    Of(Vec<IpAddr>),
}

impl SourceAddress {
    /// Those that it names.
    pub fn listed(&self) -> &[IpAddr] {
        if let SourceAddress::Of(addresses) = self { addresses } else { &[] }
    }

    /// Where a probe of a backend comes from, unless the kernel chooses: the addresses of its family in turn.
    pub fn of_probe(&self, to: &Endpoint, turn: usize) -> Option<IpAddr> {
        let listed = self.listed();
        let fits = |from: &&IpAddr| to.ip().is_some_and(|to| to.is_ipv4() == from.is_ipv4());
        let count = listed.iter().filter(fits).count().max(1);
        listed.iter().filter(fits).nth(turn % count).or(listed.first()).copied()
    }
}

/// As a message has it: `client`, or the addresses.
impl fmt::Display for SourceAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SourceAddress::System => Ok(()),
            SourceAddress::Client => out.write_str("client"),
            SourceAddress::Of(addresses) => {
                let shown: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
                out.write_str(&shown.join(", "))
            }
        }
    }
}
