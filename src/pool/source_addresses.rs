//! The local addresses that connections to the backends of a pool come from (`source`), and how many connections each has.
//!
//! A local port may be used once per local address and destination. So several addresses reach beyond the ports of one. Workers
//! use them in turn, by relaxed atomics.

use super::Pool;
use crate::base::Endpoint;
use crate::config::model;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

/// The addresses that `source` lists; none where the kernel chooses.
#[derive(Debug, Default)]
pub struct SourceAddresses {
    addresses: Vec<Arc<SourceAddress>>,
    /// Choices so far.
    turn: AtomicUsize,
}

/// One of them.
#[derive(Debug)]
pub struct SourceAddress {
    /// The address.
    pub ip: IpAddr,
    ports_used: AtomicU32,
}

/// A port that a connection from a source address uses, counted while this lives.
#[derive(Debug)]
pub struct SourcePort(Arc<SourceAddress>);

/// Where a connection to a backend comes from.
#[derive(Clone, Copy, Debug)]
pub enum DialSource<'a> {
    /// Where the kernel chooses.
    System,
    /// This address of the machine, uncounted.
    Local(IpAddr),
    /// The client's address, which is another machine's.
    Client(&'a SocketAddr),
    /// One of these, in turn.
    Of(&'a SourceAddresses),
}

impl SourceAddresses {
    /// Those of the next snapshot: an address that stays counts on.
    pub(super) fn next(before: Option<&SourceAddresses>, listed: &[IpAddr]) -> SourceAddresses {
        let new = |ip| Arc::new(SourceAddress { ip, ports_used: AtomicU32::new(0) });
        let kept = |ip| before.and_then(|before| before.of(ip)).cloned();
        let addresses = listed.iter().map(|ip| kept(*ip).unwrap_or_else(|| new(*ip))).collect();
        SourceAddresses { addresses, turn: AtomicUsize::new(0) }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<SourceAddress>> {
        self.addresses.iter()
    }

    /// This one.
    fn of(&self, ip: IpAddr) -> Option<&Arc<SourceAddress>> {
        self.iter().find(|address| address.ip == ip)
    }

    /// Counts a connection that comes from one of them and was dialled by another process.
    pub fn claim(&self, local: &Endpoint) -> Option<SourcePort> {
        self.of(local.ip()?).map(SourceAddress::take)
    }

    /// Each address of this family once, the next one in turn first.
    pub fn in_turn(&self, to: IpAddr) -> impl Iterator<Item = &Arc<SourceAddress>> {
        let fits = move |address: &&Arc<SourceAddress>| address.ip.is_ipv4() == to.is_ipv4();
        let count = self.iter().filter(fits).count();
        let first = self.turn.fetch_add(1, Ordering::Relaxed) % count.max(1);
        self.addresses.iter().filter(fits).cycle().skip(first).take(count)
    }
}

impl SourceAddress {
    /// Counts a connection.
    pub fn take(self: &Arc<SourceAddress>) -> SourcePort {
        self.ports_used.fetch_add(1, Ordering::Relaxed);
        SourcePort(self.clone())
    }

    /// The open connections from it.
    pub fn ports_used(&self) -> u32 {
        self.ports_used.load(Ordering::Relaxed)
    }
}

impl Drop for SourcePort {
    fn drop(&mut self) {
        self.0.ports_used.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pool {
    /// Where a connection for this client comes from. A client without an address is served from where the kernel chooses.
    pub fn dial_source<'a>(&'a self, client: Option<&'a Endpoint>) -> DialSource<'a> {
        match (&self.settings.source, client) {
            (model::SourceAddress::Client, Some(Endpoint::Inet(client))) => DialSource::Client(client),
            (model::SourceAddress::Client | model::SourceAddress::System, _) => DialSource::System,
            (model::SourceAddress::Of(_), _) => DialSource::Of(&self.sources),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_of_the_family_are_used_in_turn_and_each_is_tried_once() {
        let all = SourceAddresses::next(None, &["10.0.0.1", "::1", "10.0.0.2", "10.0.0.3"].map(ip));
        let round = |to: &str| all.in_turn(ip(to)).map(|address| address.ip.to_string()).collect::<Vec<_>>();
        assert_eq!(round("192.0.2.1"), ["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
        assert_eq!(round("192.0.2.1"), ["10.0.0.2", "10.0.0.3", "10.0.0.1"]);
        assert_eq!(round("2001:db8::1"), ["::1"]);
        assert_eq!(round("192.0.2.1"), ["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
        let one = SourceAddresses::next(None, &[ip("10.0.0.1")]);
        assert_eq!(one.in_turn(ip("::1")).count(), 0);
    }

    #[test]
    fn an_address_that_stays_counts_on() {
        let before = SourceAddresses::next(None, &["10.0.0.1", "10.0.0.2"].map(ip));
        let port = before.of(ip("10.0.0.2")).unwrap().take();
        let after = SourceAddresses::next(Some(&before), &["10.0.0.2", "10.0.0.3"].map(ip));
        let claimed = after.claim(&Endpoint::Inet("10.0.0.2:77".parse().unwrap()));
        let used = || after.iter().map(|address| address.ports_used()).collect::<Vec<_>>();
        assert_eq!(used(), [2, 0]);
        drop((port, claimed));
        assert_eq!(used(), [0, 0]);
        assert!(after.claim(&Endpoint::Inet("10.0.0.1:77".parse().unwrap())).is_none());
    }
}
