//! Admission limits of a listener: access lists, and connections and rate per source.
//!
//! [`Limits`] is consulted once per client, when its address is known: right after accept, or after the PROXY header
//! where the listener expects one. It opens nothing, reads no clock and knows neither sockets nor counters; the caller
//! acts on the result and counts it.
//!
//! | checks, in this order | refused as |
//! |---|---|
//! | [`access`]: whether the lists allow this address | `denied` |
//! | [`source`]: whether its source may have one more connection | `source_limit` |
//! | [`source`]: whether its source has a token left | `source_rate` |
//!
//! The first refusal is the result, so a refused client is counted once and takes no token. A unix client has no
//! address: every list allows it, and it is never counted, since the socket file's mode controls access.
//!
//! # Dry run
//!
//! With `dry_run` every client is admitted, and the result says what would have been refused. Connections over the
//! limit count like others, so the figures are those that enforcement would start from.

pub mod access;
pub mod source;

pub use access::{Access, canonical};
pub use source::{Rules, SourceId, Sources};

use crate::base::Tick;
use std::net::IpAddr;
use std::sync::Arc;

/// Why a client is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The access lists deny its address.
    Denied,
    /// Its source has its maximum of connections.
    SourceLimit,
    /// Its source connects too often.
    SourceRate,
}

/// All admission limits of a listener.
#[derive(Debug, Default)]
pub struct Limits {
    /// The lists, which may be long. A change that does not concern them shares them.
    pub access: Arc<Access>,
    /// The table of sources; `None` where sources have no limit. It survives a change of the lists.
    pub sources: Option<Arc<Sources>>,
    /// Whether refusals are enforced.
    pub enforcement: Enforcement,
}

/// What a limit does with a client that it refuses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Enforcement {
    /// The client is refused.
    #[default]
    Enforced,
    /// The client is admitted; the result has the reason.
    DryRun,
}

/// The client is admitted.
#[derive(Debug, Default)]
pub struct Admitted {
    /// The source that the client counts for, if there is one; return it with [`Sources::leave`].
    pub source: Option<SourceId>,
    /// In a dry run, the reason to refuse it.
    pub would_refuse: Option<Reason>,
}

impl Limits {
    /// Decides on a client with this address. `now` is on the clock that all workers share. Fails with the reason for a
    /// refusal.
    pub fn admit(&self, client: Option<IpAddr>, now: Tick) -> Result<Admitted, Reason> {
        let Some(ip) = client else { return Ok(Admitted::default()) };
        match (self.access.allows(ip), self.enforcement) {
            (true, _) => {}
            (false, Enforcement::Enforced) => return Err(Reason::Denied),
            // Enforcement would refuse it before the table, so it is not counted there.
            (false, Enforcement::DryRun) => {
                return Ok(Admitted { source: None, would_refuse: Some(Reason::Denied) });
            }
        }
        match &self.sources {
            Some(sources) => sources.enter(ip, now, self.enforcement),
            None => Ok(Admitted::default()),
        }
    }

    /// The reason for which [`Limits::admit`] would refuse this client, or would in a dry run. Nothing is counted.
    pub fn preview(&self, client: Option<IpAddr>, now: Tick) -> Option<Reason> {
        let ip = client?;
        if !self.access.allows(ip) { Some(Reason::Denied) } else { self.sources.as_ref()?.preview(ip, now) }
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
    fn a_dry_run_admits_every_client_with_the_reason() {
        let limits = limits(Enforcement::DryRun);
        let (denied, client) = ("192.0.2.1".parse().ok(), "198.51.100.1".parse().ok());
        assert_eq!((limits.preview(denied, Tick(0)), limits.preview(client, Tick(0))), (Some(Reason::Denied), None));
        assert_eq!(limits.admit(denied, Tick(0)).unwrap().would_refuse, Some(Reason::Denied));
        let first = limits.admit(client, Tick(0)).unwrap();
        assert_eq!(first.would_refuse, None);
        let second = limits.admit(client, Tick(0)).unwrap();
        assert_eq!(second.would_refuse, Some(Reason::SourceLimit));
        leave(&limits, first);
        assert_eq!(limits.admit(client, Tick(0)).unwrap().would_refuse, Some(Reason::SourceLimit), "the second counts");
    }

    #[test]
    fn a_unix_client_has_no_source() {
        let access = Arc::new(Access::new(&["10.0.0.0/8".parse().unwrap()], &[]));
        let limits = Limits { access, ..limits(Enforcement::Enforced) };
        let all: Vec<_> = (0..10).map(|_| limits.admit(None, Tick(0)).unwrap()).collect();
        assert!(all.iter().all(|admitted| admitted.source.is_none()));
    }
}
