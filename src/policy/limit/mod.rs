//! Who may come in: access lists, and how much one source may have.
//!
//! [`Limits`] is asked once per client, when its address is known: right after accept, or after the PROXY header where the
//! listener expects one. It opens nothing, reads no clock and knows neither sockets nor counters; whoever asks acts on the
//! answer and counts it.
//!
//! | asked, in this order | refused as |
//! |---|---|
//! | [`access`]: do the lists let this address in? | `denied` |
//! | [`source`]: has its source room for one more connection? | `source_limit` |
//! | [`source`]: has its source a token left? | `source_rate` |
//!
//! The first refusal ends it, so a refused client is counted once and takes no token. A unix client has no address: it is
//! let in by any list and never counted, since whoever can open the socket file is the operator's to say by its mode.
//!
//! # Dry run
//!
//! A limit that is new is a guess. With `dry_run` nobody is refused; the answer says what would have been, and connections
//! over the limit count like others, so that the figures are those that enforcing would start from.

pub mod access;
pub mod source;

pub use access::{Access, canonical};
pub use source::{Rules, SourceId, Sources};

use crate::base::Tick;
use std::net::IpAddr;
use std::sync::Arc;

/// Why a client is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The access lists say so.
    Denied,
    /// Its source has as many connections as it may.
    SourceLimit,
    /// Its source connects too often.
    SourceRate,
}

/// All of a listener's limits on who comes in.
#[derive(Debug, Default)]
pub struct Limits {
    /// The lists, which may be long. A change that does not concern them keeps them.
    pub access: Arc<Access>,
    /// The table of sources; `None` where sources have no limit. It outlives a change of the lists.
    pub sources: Option<Arc<Sources>>,
    /// What a refusal does.
    pub enforcement: Enforcement,
}

/// What a limit does about a client that it refuses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Enforcement {
    /// The client is refused.
    #[default]
    Enforced,
    /// The client is let in; the answer has the reason.
    DryRun,
}

/// The client is let in.
#[derive(Debug, Default)]
pub struct Admitted {
    /// The source that the client is counted for, if there is one: [`Sources::leave`] takes it off the count.
    pub source: Option<SourceId>,
    /// In a dry run: why it would have been refused.
    pub would_refuse: Option<Reason>,
}

impl Limits {
    /// May a client with this address come in? `now` is of the clock that all workers share.
    pub fn admit(&self, client: Option<IpAddr>, now: Tick) -> Result<Admitted, Reason> {
        let Some(ip) = client else { return Ok(Admitted::default()) };
        match (self.access.allows(ip), self.enforcement) {
            (true, _) => {}
            (false, Enforcement::Enforced) => return Err(Reason::Denied),
            // It would not have come to the table, so it leaves no trace there.
            (false, Enforcement::DryRun) => {
                return Ok(Admitted { source: None, would_refuse: Some(Reason::Denied) });
            }
        }
        match &self.sources {
            Some(sources) => sources.enter(ip, now, self.enforcement),
            None => Ok(Admitted::default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(enforcement: Enforcement) -> Limits {
        let rules = Rules { connections: Some(1), per_second: Some(2) };
        let deny = ["192.0.2.0/24".parse().unwrap()];
        Limits { access: Arc::new(Access::new(&[], &deny)), sources: Some(Sources::new(rules)), enforcement }
    }

    fn leave(limits: &Limits, admitted: Admitted) {
        limits.sources.as_ref().unwrap().leave(admitted.source.unwrap());
    }

    #[test]
    fn the_first_refusal_in_order_is_the_reason() {
        let limits = limits(Enforcement::Enforced);
        let (denied, client) = ("192.0.2.1".parse().ok(), "198.51.100.1".parse().ok());
        assert_eq!(limits.admit(denied, Tick(0)).unwrap_err(), Reason::Denied);
        let first = limits.admit(client, Tick(0)).unwrap();
        assert_eq!(limits.admit(client, Tick(0)).unwrap_err(), Reason::SourceLimit);
        leave(&limits, first);
        leave(&limits, limits.admit(client, Tick(0)).unwrap());
        assert_eq!(limits.admit(client, Tick(0)).unwrap_err(), Reason::SourceRate, "the refused one took no token");
    }

    #[test]
    fn a_dry_run_lets_everybody_in_and_says_why_not() {
        let limits = limits(Enforcement::DryRun);
        let (denied, client) = ("192.0.2.1".parse().ok(), "198.51.100.1".parse().ok());
        assert_eq!(limits.admit(denied, Tick(0)).unwrap().would_refuse, Some(Reason::Denied));
        let first = limits.admit(client, Tick(0)).unwrap();
        assert_eq!(first.would_refuse, None);
        let second = limits.admit(client, Tick(0)).unwrap();
        assert_eq!(second.would_refuse, Some(Reason::SourceLimit));
        leave(&limits, first);
        assert_eq!(limits.admit(client, Tick(0)).unwrap().would_refuse, Some(Reason::SourceLimit), "the second counts");
    }

    #[test]
    fn a_unix_client_is_nobodys_source() {
        let access = Arc::new(Access::new(&["10.0.0.0/8".parse().unwrap()], &[]));
        let limits = Limits { access, ..limits(Enforcement::Enforced) };
        let all: Vec<_> = (0..10).map(|_| limits.admit(None, Tick(0)).unwrap()).collect();
        assert!(all.iter().all(|admitted| admitted.source.is_none()));
    }
}
